package registrar

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
)

// Resolver brings accounts to the servers of all regions over a connection in SYS, and
// asks them back.
//
// A push reaches every server, the last one wins, and servers do not look at who signed
// it. So whoever pushes agrees with the others on content, not on bytes: what it knows
// is joined with every JWT of this platform that servers hold (trust.Join), and only
// where a server does not hold the join is it pushed. Two that run side by side, each
// with its own signing key, come to rest; and neither loses what the other brought.
type Resolver struct {
	// Revoked gives the revocations of an account that the ledger has; see
	// ledger.Projection.Revoked. They are brought to all servers, and those that are over are
	// taken out. nil: the ledger is not known, and only what servers hold is kept.
	Revoked func(ident.AccountKey) map[ledger.Key]ledger.Revocation
	// Clock is told what time servers say it is. While it is wrong nothing is signed. May be nil.
	Clock *Clock

	nc     *nats.Conn
	op     *trust.Operator
	signer *keystore.Key
	now    func() time.Time

	patience time.Duration
}

// NewResolver uses a connection in SYS with the rights of a registrar. signer signs
// joins that nobody has signed yet: an operator signing key, or nil, with which only
// what is signed already can be pushed.
func NewResolver(nc *nats.Conn, op *trust.Operator, signer *keystore.Key, now func() time.Time) *Resolver {
	return &Resolver{nc: nc, op: op, signer: signer, now: now, patience: patience}
}

// Errors of what Converge finds.
var (
	// ErrBehind: servers do not hold what they should, or did not answer.
	ErrBehind = errors.New("not on all servers")
	// ErrUnsigned: the join is in no JWT, and there is no key to sign one.
	ErrUnsigned = errors.New("nobody has signed this content, and there is no key to sign it with")
)

// Server is one server of the supercluster.
type Server struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Cluster string `json:"cluster"`
}

// life is what a server says of itself, asked or not.
type life struct {
	Server
	Time time.Time `json:"time"` // by its clock
}

func alive(data []byte) (life, error) {
	var v struct {
		Server life `json:"server"`
	}
	err := json.Unmarshal(data, &v)
	return v.Server, err
}

// Report is how servers stand to accounts.
type Report struct {
	// Servers are those that answered, by name.
	Servers []Server
	// Accounts has one for each account that was asked for, in that order.
	Accounts []Standing
	// Behind are servers that did not answer, or did not take what they were sent, by
	// name. Servers do not say who they are when they are asked for an account, only when
	// they are sent one: who is behind in a mere Survey is known if it is away altogether.
	Behind []Behind
}

// Standing is how servers stand to one account.
type Standing struct {
	Account ident.AccountKey
	Name    string
	// Version is that of the base claims that should be in force.
	Version uint64
	// Token is the JWT that says all that should be in force; empty if there is none yet.
	Token string
	// InLine is how many servers hold that content, whoever signed it; Servers is how many
	// there are.
	InLine, Servers int
	// Pushed is whether it was pushed.
	Pushed bool
	// Lacked is how many servers held no JWT of the account at first.
	Lacked int
	// Found are other JWTs that servers held at first and should not go on holding.
	Found []Found
	// Err wraps trust.ErrConflict, ErrUnsigned or nats.ErrMaxPayload if the account cannot
	// be pushed.
	Err error

	opened []trust.AccountJWT
}

// Found is a JWT that servers held.
type Found struct {
	Servers  int    // that held it
	Issuer   string // as it says itself; no key if it says none
	IssuedAt int64  // seconds since 1970, as it says itself
	Version  uint64 // of its base claims; 0 if it is foreign
	// Foreign: it does not verify up to this platform's operator. Nothing that it says is
	// believed.
	Foreign bool
}

// Behind is a server that is behind.
type Behind struct {
	Server   string // its name
	Accounts int    // that it does not hold, or did not say it does
	Why      string
}

// Content is what should be in force of an account. It wraps trust.ErrConflict where
// that cannot be told.
func (s Standing) Content() (trust.Content, error) {
	c, err := joined(s.opened)
	if err == nil {
		err = c.Conflict()
	}
	return c, err
}

// Err is nil if every server holds every account as it should. It wraps ErrBehind and
// what is wrong with accounts.
func (r Report) Err() error {
	var errs []error
	for _, s := range r.Accounts {
		if s.Err != nil {
			errs = append(errs, fmt.Errorf("account %s: %w", s.Name, s.Err))
		}
	}
	for _, b := range r.Behind {
		errs = append(errs, fmt.Errorf("%w: server %s, %d accounts: %s", ErrBehind, b.Server, b.Accounts, b.Why))
	}
	if len(errs) == 0 {
		for _, s := range r.Accounts {
			if s.InLine < s.Servers {
				errs = append(errs, fmt.Errorf("account %s is held by %d of %d servers: %w", s.Name, s.InLine, s.Servers, ErrBehind))
			}
		}
	}
	const most = 20
	if n := len(errs); n > most {
		errs = append(errs[:most], fmt.Errorf("and %d more like these", n-most))
	}
	return errors.Join(errs...)
}

// InLine is how many accounts every server holds as it should.
func (r Report) InLine() int {
	n := 0
	for _, s := range r.Accounts {
		if s.Err == nil && s.InLine >= s.Servers {
			n++
		}
	}
	return n
}

// Pushed is how many accounts were pushed.
func (r Report) Pushed() int {
	n := 0
	for _, s := range r.Accounts {
		if s.Pushed {
			n++
		}
	}
	return n
}

const (
	// quiet is how long to wait for one more server to answer a ping: several times the
	// longest round trip between regions.
	quiet = 600 * time.Millisecond
	// missed is how long to wait for one that should be there, and missedNow for one that was
	// there just now.
	missed    = 3 * time.Second
	missedNow = time.Second
)

// Servers asks who is there, and gives them by name: until those of the names given have
// answered, or no other has for a while. Without names it waits that while in any case.
func (r *Resolver) Servers(ctx context.Context, expected []string) ([]Server, error) {
	return r.find(ctx, expected, missed)
}

// find is Servers, with how long those are waited for that should be there.
func (r *Resolver) find(ctx context.Context, expected []string, long time.Duration) ([]Server, error) {
	inbox := r.nc.NewInbox()
	sub, err := r.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, fmt.Errorf("asking who is there: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only if the connection is gone
	if err := r.nc.PublishRequest(subject.ServerPing, inbox, nil); err != nil {
		return nil, fmt.Errorf("asking who is there: %w", err)
	}
	patience := quiet
	waiting := make(map[string]bool, len(expected))
	for _, name := range expected {
		waiting[name], patience = true, long
	}
	var found []Server
	for len(expected) == 0 || len(waiting) > 0 {
		wctx, cancel := context.WithTimeout(ctx, patience)
		m, err := sub.NextMsgWithContext(wctx)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("asking who is there: %w", err)
		}
		v, err := alive(m.Data)
		if err != nil {
			return nil, fmt.Errorf("a server's answer to a ping cannot be read: %w", err)
		}
		r.Clock.Heard(v.ID, v.Time)
		if !slices.ContainsFunc(found, func(s Server) bool { return s.ID == v.ID }) {
			found = append(found, v.Server)
		}
		delete(waiting, v.Name)
	}
	slices.SortFunc(found, func(a, b Server) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID))
	})
	return found, nil
}

// Converge joins what the caller knows with what servers hold, and pushes to all of them
// what some of them do not hold; what they hold then it asks of them again. known are
// account JWTs, in any order, several of one account among them; servers hold other
// accounts too, which it leaves alone. expected are the names of the servers that there
// should be; nil is whoever answers a ping.
//
// Nothing is pushed that does not verify up to the operator, and what servers hold that
// does not is replaced; a JWT among known that does not is an error before anything is
// sent. Servers that are away, or refuse, are no error: what was done stays, and the
// report names them. With an error, which is that ctx ended or the connection is gone, the
// report has what was done until then.
//
// What another pushes between this one's look and its push is overwritten, and the other
// has to see that. Settle waits to see it; Watcher does it all the time.
func (r *Resolver) Converge(ctx context.Context, known, expected []string) (Report, error) {
	rep, err := r.run(ctx, known, expected, true, missed)
	if err != nil {
		return rep, fmt.Errorf("bringing accounts to all servers: %w", err)
	}
	return rep, nil
}

// Survey is Converge without pushing anything.
func (r *Resolver) Survey(ctx context.Context, known, expected []string) (Report, error) {
	rep, err := r.run(ctx, known, expected, false, missed)
	if err != nil {
		return rep, fmt.Errorf("asking servers for accounts: %w", err)
	}
	return rep, nil
}

// settle is more than can lie between somebody's look at an account and the arrival of
// what it then pushes: who was overwritten by that sees it after this time.
const settle = 3 * time.Second

// Settle is Converge for who does not stay to watch, and must not lose what it brought to
// another that pushes at the same moment: it looks again until what it pushed has stayed.
// The report is of all that it did.
func (r *Resolver) Settle(ctx context.Context, known, expected []string) (Report, error) {
	rep, err := r.Converge(ctx, known, expected)
	known = slices.Clone(known)
	for more := rep.Pushed() > 0; more && err == nil; {
		for _, s := range rep.Accounts {
			if s.Token != "" {
				known = append(known, s.Token)
			}
		}
		if err := wait.For(ctx, settle); err != nil {
			return rep, fmt.Errorf("waiting whether pushed accounts stay: %w", err)
		}
		var next Report
		if next, err = r.Converge(ctx, known, expected); err != nil {
			break
		}
		more = false
		for i := range next.Accounts {
			s, before := &next.Accounts[i], rep.Accounts[i]
			more = more || len(s.Found) > 0 && s.Pushed
			s.Pushed = s.Pushed || before.Pushed
			s.Lacked, s.Found = before.Lacked, slices.Concat(before.Found, s.Found)
		}
		rep = next
	}
	return rep, err
}

// joined is what JWTs of one account say together.
func joined(opened []trust.AccountJWT) (trust.Content, error) {
	all := make([]trust.Content, len(opened))
	for i, a := range opened {
		var err error
		if all[i], err = a.Content(); err != nil {
			return trust.Content{}, err
		}
	}
	if len(all) == 0 {
		return trust.Content{}, errors.New("no account JWT")
	}
	return trust.Join(all[0], all[1:]...)
}

// spread calls f for 0 to n-1, on all processors: what costs is verifying.
func spread(n int, f func(i int)) {
	workers := min(n, runtime.GOMAXPROCS(0))
	var work sync.WaitGroup
	for w := range workers {
		work.Go(func() {
			for i := w; i < n; i += workers {
				f(i)
			}
		})
	}
	work.Wait()
}
