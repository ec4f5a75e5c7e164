package trust

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/wire"
)

// Users verifies user JWTs as a Platform does, and remembers those that it has verified: all
// guests show one and the same, and who renews shows one that was signed here. It remembers
// by the sum of the whole JWT, its signature included, and holds the time against the clock
// each time; so nothing is believed that was not verified with these very bytes.
//
// What it knows is of one platform document. With another one there is another Users. It is
// safe for concurrent use.
type Users struct {
	platform *Platform

	mu       sync.Mutex
	now, old map[[sha256.Size]byte]User
}

// maxUsers bounds one of two generations, at some 700 bytes each.
const maxUsers = 32_768

// NewUsers remembers nothing yet.
func NewUsers(p *Platform) *Users {
	return &Users{platform: p, now: make(map[[sha256.Size]byte]User)}
}

// Verify is Platform.VerifyUser.
func (s *Users) Verify(token string, now time.Time) (User, error) {
	if len(token) > MaxToken {
		return s.platform.VerifyUser(token, now)
	}
	sum := sha256.Sum256([]byte(token))
	u, ok := s.known(sum)
	if !ok {
		var err error
		if u, err = s.platform.readUser(token); err != nil {
			return User{}, err
		}
		s.remember(sum, u)
	}
	return u.in(now)
}

// Signed remembers a user JWT that the caller has just signed by a role key of this
// platform: u is what Verify would read from it.
func (s *Users) Signed(token string, u User) { s.remember(sha256.Sum256([]byte(token)), u) }

// Caller is Platform.Caller.
func (s *Users) Caller(info wire.RequestInfo, reply string, now time.Time, accounts ...ident.Label) (User, error) {
	return caller(s.Verify, info, reply, now, accounts)
}

func (s *Users) known(sum [sha256.Size]byte) (User, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u, ok := s.now[sum]; ok {
		return u, true
	}
	u, ok := s.old[sum]
	if ok {
		s.put(sum, u) // it is in use
	}
	return u, ok
}

func (s *Users) remember(sum [sha256.Size]byte, u User) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(sum, u)
}

// put keeps the newest: what nobody showed for a whole generation is forgotten.
func (s *Users) put(sum [sha256.Size]byte, u User) {
	if len(s.now) >= maxUsers {
		s.old, s.now = s.now, make(map[[sha256.Size]byte]User, maxUsers/4)
	}
	s.now[sum] = u
}
