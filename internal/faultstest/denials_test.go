package faultstest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/service"
	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/wire"
)

// visitor is somebody who comes again and again, and whom an administrator may revoke.
type visitor struct {
	name string
	key  *keystore.Key
	user ident.UserKey
	// shows is how it shows who it is; nil: by its nkey alone.
	shows client.Identity

	mu       sync.Mutex
	tokens   []string             // credentials that it was given, the newest last
	asked    time.Time            // when an administrator first asked to revoke it; zero: nobody has
	answered bool                 // some registrar has said that it is revoked
	receipt  time.Time            // when a registrar's word came that all servers deny it; zero: none has
	out      time.Time            // when it was first refused after it was asked
	refused  map[string]time.Time // by which server first
	after    int                  // how often it came after the receipt
	given    int                  // credentials that issuers gave it after the receipt
	wrong    []string             // what is against what is promised
}

// visits are what was tried and answered.
type visits struct {
	mu                          sync.Mutex
	connects, obtains, failures int
	moments                     int                  // visits that a server ended itself, see justStarted
	started                     map[string]time.Time // servers that were stopped, by URL: when they were started again
}

// justStarted is for how long after its start a server may let in whom it denies, and puts them out
// again by itself within moment: nats-server 2.15.2 shows an account to clients while it is still
// reading what the account's JWT says, the signing keys before the revocations.
const (
	justStarted = 10 * time.Second
	moment      = 2 * time.Second
)

// servers is how many of the platform's there are.
const servers = 9

// TestDenialsUnderFaults: administrators revoke people through registrars of all regions, and people
// come everywhere and all the time with whatever credential they ever had, while regions are cut
// off, servers stop, and registrars and issuers are killed. All that is asked and answered is
// recorded: once a registrar's receipt says that all servers deny somebody, nobody gets through, and
// no connection stays, but for the moment in which a server starts; nobody else is ever refused;
// and in the end all that was revoked is denied by every server and every issuer, and nobody else.
func TestDenialsUnderFaults(t *testing.T) {
	if !long() {
		t.Skip("of make chaos and make test-long")
	}
	w := newWorld(t, false)
	services := newProcesses(w)
	const number = 120
	people := make([]*visitor, number)
	for i := range people {
		people[i] = w.visitor(fmt.Sprintf("visitor-%d", i), regions()[i%3])
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	seen := visits{started: map[string]time.Time{}}
	faults := make(chan string, 1)
	go func() { faults <- w.disturbAll(ctx, services, &seen, rand.New(rand.NewPCG(3, 4))) }() // #nosec G404 -- which fault comes when
	var work sync.WaitGroup
	for i := range 3 {
		work.Go(func() { w.revokeSome(ctx, people, i, &seen, rand.New(rand.NewPCG(5, uint64(i)))) }) // #nosec G404,G115 -- who is next
	}
	for i := range 4 {
		work.Go(func() { w.visit(ctx, people, &seen, rand.New(rand.NewPCG(6, uint64(i)))) }) // #nosec G404,G115 -- who is next
	}
	work.Wait()
	t.Logf("faults: %s", <-faults)
	t.Logf("%d connects, %d requests for a credential, %d without an answer", seen.connects, seen.obtains, seen.failures)

	for _, name := range all() {
		services.kill(name)
		w.start(name)
	}
	report(t, people, &seen)
	// What no registrar answered to may have been done or not: it is asked for again.
	for _, v := range people {
		if v.asked.IsZero() {
			continue
		}
		verb := wire.VerbReceipt
		if !v.answered {
			verb = wire.VerbRevoke
		}
		eventually(t, within(60*time.Second), "all servers deny "+v.name, func() bool {
			r := v.identity()
			r.Wait = 20
			a, err := w.administer(t.Context(), "ams", verb, r)
			return err == nil && everywhere(a)
		})
	}
	urls := w.Public.Document.URLs(region("ams"))
	for _, v := range people {
		denied := !v.asked.IsZero()
		for _, url := range urls {
			for _, token := range slices.Compact([]string{v.tokens[0], v.tokens[len(v.tokens)/2], v.newest()}) {
				err := w.connect(v, token, url)
				if denied && !errors.Is(err, nats.ErrAuthorization) || !denied && err != nil {
					t.Errorf("in the end, %s at %s, denied %t: %v", v.name, url, denied, err)
				}
			}
		}
		for _, in := range regions() {
			eventually(t, 30*time.Second, fmt.Sprintf("%s asks in %s, denied %t", v.name, in, denied), func() bool {
				err := w.obtain(in, v.key, v.name)
				return denied && code(err) == wire.Revoked || !denied && err == nil
			})
		}
	}
	w.equal(within(10 * time.Second))
}

// report says what the history shows.
func report(t *testing.T, people []*visitor, seen *visits) {
	t.Helper()
	var receipts, revoked, after, given int
	var slowest time.Duration
	for _, v := range people {
		for _, s := range v.wrong {
			t.Errorf("%s %s", v.name, s)
		}
		if v.asked.IsZero() {
			continue
		}
		revoked++
		if d := v.out.Sub(v.asked); !v.out.IsZero() {
			slowest = max(slowest, d)
		}
		if !v.receipt.IsZero() {
			receipts++
			after, given = after+v.after, given+v.given
		}
	}
	t.Logf("%d people were revoked, of %d a receipt said that all servers deny them; they came %d times after it, and were given %d credentials, with which they came, too", revoked, receipts, after, given)
	t.Logf("%d times a server that had just started let somebody in, and put them out at once", seen.moments)
	t.Logf("the longest until one was first refused was %s", slowest.Round(time.Millisecond))
	if revoked < len(people)/4 || receipts < 20 || after < 200 || seen.connects < 1000 {
		t.Error("too little happened for the history to say something")
	}
}

// everywhere tells whether a receipt says that every server there is denies somebody.
func everywhere(a client.Administered) bool {
	return a.Word.Servers == servers && a.Word.Denied == servers && len(a.Word.Behind) == 0
}

// visitor is somebody new who came in a region.
func (w *world) visitor(name, in string) *visitor {
	w.t.Helper()
	k := newUser(w.t)
	v := &visitor{name: name, key: k, user: userKey(k), refused: map[string]time.Time{}}
	eventually(w.t, 20*time.Second, name+" comes", func() bool { return w.asks(w.t.Context(), v, in, 5*time.Second) == nil })
	return v
}

// connect tries whether a server takes a visitor's credential.
func (w *world) connect(v *visitor, token, url string) error {
	nc, err := w.comeIn(v, token, url)
	if err == nil {
		nc.Close()
	}
	return err
}

func (w *world) comeIn(v *visitor, token, url string, o ...nats.Option) (*nats.Conn, error) {
	return nats.Connect(url, append(o, nats.UserJWT(func() (string, error) { return token, nil }, v.key.Sign), nats.NoReconnect(),
		nats.Timeout(2*time.Second), nats.CustomInboxPrefix(subject.UserInboxPrefix(v.user)), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))...)
}

// asks asks a region's issuers for another credential.
func (w *world) asks(ctx context.Context, v *visitor, in string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r, _ := w.Public.Document.Region(region(in))
	c, err := w.Public.Obtain(ctx, r.URLs, v.key, client.Wish{Name: must(ident.ParseName(v.name)), Identity: v.shows})
	if err == nil {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.tokens = append(v.tokens, c.JWT)
	}
	return err
}

// token is one of a visitor's credentials, most often the newest.
func (v *visitor) token(random *rand.Rand) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	if random.IntN(3) == 0 {
		return v.tokens[random.IntN(len(v.tokens))]
	}
	return v.tokens[len(v.tokens)-1]
}

// visit has people come, one after the other.
func (w *world) visit(ctx context.Context, people []*visitor, seen *visits, random *rand.Rand) {
	urls := w.Public.Document.URLs(region("ams"))
	for wait.For(ctx, time.Duration(5+random.IntN(20))*time.Millisecond) == nil {
		v := people[random.IntN(len(people))]
		began := time.Now()
		if random.IntN(3) > 0 {
			url := urls[random.IntN(len(urls))]
			v.note(began, url, w.looksIn(v, began, v.token(random), url, seen), seen)
			continue
		}
		in := regions()[random.IntN(3)]
		v.note(began, in, w.asks(ctx, v, in, 900*time.Millisecond), seen)
	}
}

// looksIn is connect, but for who is to be out: they stay for as long as the server lets them.
func (w *world) looksIn(v *visitor, began time.Time, token, url string, seen *visits) error {
	closed := make(chan struct{})
	nc, err := w.comeIn(v, token, url, nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		return err
	}
	defer nc.Close()
	if !v.denied(began) {
		return nil
	}
	select {
	case <-closed:
	case <-time.After(moment):
		return nil
	}
	seen.mu.Lock()
	defer seen.mu.Unlock()
	if at, ok := seen.started[url]; !ok || time.Since(at) > justStarted+moment {
		return nil
	}
	seen.moments++
	return nats.ErrAuthorization
}

// note takes down what came of a visit, to a server or to a region's issuers, that began at a moment.
func (v *visitor) note(began time.Time, where string, err error, seen *visits) {
	server := strings.Contains(where, ":")
	refused := errors.Is(err, nats.ErrAuthorization) || code(err) == wire.Revoked || code(err) == wire.Suspended
	seen.mu.Lock()
	if server {
		seen.connects++
	} else {
		seen.obtains++
	}
	if err != nil && !refused {
		seen.failures++
	}
	seen.mu.Unlock()

	v.mu.Lock()
	defer v.mu.Unlock()
	late := v.late(began)
	if late {
		v.after++
	}
	switch {
	case refused && v.asked.IsZero():
		v.wrong = append(v.wrong, fmt.Sprintf("was refused at %s, and nobody had asked for it: %v", where, err))
	case refused:
		if v.out.IsZero() {
			v.out = time.Now()
		}
		if v.refused[where].IsZero() {
			v.refused[where] = time.Now()
		}
	case err == nil && late && server:
		v.wrong = append(v.wrong, fmt.Sprintf("got through at %s %s after the receipt (which had refused it before: %t)", where, began.Sub(v.receipt), !v.refused[where].IsZero()))
	case err == nil && late:
		// An issuer that was cut off may not have heard. What it gives is dated before the
		// revocation, and is tried at servers.
		v.given++
	}
}

// revokeSome has an administrator revoke every second of the people of a third, through whichever
// region answers, until a registrar's word says that all servers deny them.
func (w *world) revokeSome(ctx context.Context, people []*visitor, third int, seen *visits, random *rand.Rand) {
	urls := w.Public.Document.URLs(region("ams"))
	for i := third; i < len(people); i += 6 {
		v := people[i]
		closed := make(chan struct{})
		// Without one its server is away.
		nc, err := w.comeIn(v, v.token(random), urls[random.IntN(len(urls))], nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
		if w.revoke(ctx, v, random) {
			// At once, everywhere: what a receipt says too much is seen before it comes true.
			for _, url := range urls {
				began := time.Now()
				v.note(began, url, w.looksIn(v, began, v.newest(), url, seen), seen)
			}
		}
		if err != nil {
			continue
		}
		if v.denied(time.Now()) {
			// Its server has closed it by then; that has to be heard.
			select {
			case <-closed:
			case <-time.After(5 * time.Second):
				v.did("is still connected to " + nc.ConnectedUrl() + " long after the receipt")
			}
		}
		nc.Close()
	}
}

// denied tells whether a receipt came before a moment.
func (v *visitor) denied(at time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.late(at)
}

// late is denied; v.mu is held.
func (v *visitor) late(at time.Time) bool { return !v.receipt.IsZero() && at.After(v.receipt) }

// did takes down what is against what is promised.
func (v *visitor) did(what string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.wrong = append(v.wrong, what)
}

// revoke has somebody revoked until a receipt says that all servers know, and tells whether one
// does, or nobody has the patience.
func (w *world) revoke(ctx context.Context, v *visitor, random *rand.Rand) bool {
	verb := wire.VerbRevoke
	for wait.For(ctx, time.Duration(200+random.IntN(600))*time.Millisecond) == nil {
		v.mu.Lock()
		if v.asked.IsZero() {
			v.asked = time.Now()
		}
		v.mu.Unlock()
		a, err := w.administer(ctx, regions()[random.IntN(3)], verb, v.identity())
		if err != nil {
			continue
		}
		v.mu.Lock()
		v.answered = true
		if everywhere(a) {
			v.receipt = time.Now()
		}
		v.mu.Unlock()
		// Servers are away: it is in force, and is asked about again.
		verb = wire.VerbReceipt
		if everywhere(a) || random.IntN(6) == 0 {
			return everywhere(a)
		}
	}
	return false
}

// identity is what an administrator names.
func (v *visitor) identity() wire.AdminRequest {
	return wire.AdminRequest{Identity: openIdentity(v.key), Why: "under faults"}
}

// administer asks a region's registrars as an administrator.
func (w *world) administer(ctx context.Context, in, verb string, r wire.AdminRequest) (client.Administered, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(15+r.Wait)*time.Second)
	defer cancel()
	u, err := w.Up.Platform.MintFor("nscsetup.test", platform.Admin, platform.RoleAdmin, time.Now(), time.Hour)
	if err != nil {
		return client.Administered{}, err
	}
	at, _ := w.Public.Document.Region(region(in))
	nc, err := nats.Connect(strings.Join(at.URLs, ","), nats.UserJWT(func() (string, error) { return u.Token, nil }, u.Key.Sign), nats.NoReconnect(),
		nats.Timeout(2*time.Second), nats.CustomInboxPrefix(subject.ServiceInboxPrefix(userKey(u.Key))))
	if err != nil {
		return client.Administered{}, err
	}
	defer nc.Close()
	return client.Administer(ctx, w.Public.Operator, nc, verb, r)
}

// disturbAll does one harm after the other until ctx ends, and undoes each.
func (w *world) disturbAll(ctx context.Context, services *processes, seen *visits, random *rand.Rand) string {
	var done [5]int
	all := w.Up.Cluster.Servers()
	for ctx.Err() == nil {
		pause := func() { _ = wait.For(ctx, time.Duration(300+random.IntN(1500))*time.Millisecond) }
		pause()
		if random.IntN(3) == 0 { // long enough that receipts are made meanwhile
			pause = func() { _ = wait.For(ctx, time.Duration(3000+random.IntN(5000))*time.Millisecond) }
		}
		kind := random.IntN(len(done))
		done[kind]++
		bound, cancel := context.WithTimeout(context.Background(), 40*time.Second)
		var err error
		switch kind {
		case 0: // a region is cut off
			r := regions()[random.IntN(3)]
			w.cut(r)
			pause()
			w.heal(r)
		case 1: // one link is cut: the third region still reaches both
			i := random.IntN(3)
			a, b := region(regions()[i]), region(regions()[(i+1)%3])
			err = w.Up.Cluster.Cut(a, b)
			pause()
			err = errors.Join(err, w.Up.Cluster.Heal(a, b))
		case 2: // a server stops
			node := all[random.IntN(len(all))]
			err = w.Up.Cluster.StopNode(bound, node.Name)
			pause()
			seen.mu.Lock()
			seen.started[node.URL] = time.Now()
			seen.mu.Unlock()
			err = errors.Join(err, w.Up.Cluster.StartNode(bound, node.Name))
		case 3, 4:
			name := []string{service.Registrar, service.Issuer}[kind-3] + "/" + regions()[random.IntN(3)]
			services.kill(name)
			pause()
			services.start(name)
		}
		cancel()
		if err != nil {
			w.t.Errorf("disturbing: %v", err)
		}
	}
	return fmt.Sprintf("%d regions cut off, %d links cut, %d servers stopped, %d registrars and %d issuers killed", done[0], done[1], done[2], done[3], done[4])
}
