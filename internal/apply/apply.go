package apply

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/claims"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/platform/plan"
	"github.com/herald-nats/herald/pkg/registrar"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// Errors of Apply.
var (
	// ErrBusy: another run works on this folder.
	ErrBusy = errors.New("another nscsetup works on this platform folder")
	// ErrConflict: what the file changes was changed by somebody else, too, in another way.
	ErrConflict = errors.New("changed here and elsewhere")
)

// Result is what Apply did.
type Result struct {
	Plan    *plan.Plan    // what was to be done
	Version trust.Version // of the platform document that is in force
	// Behind are servers that do not have everything yet, by name, with the reason.
	Behind []registrar.Behind
	// Servers is how many there should be, Accounts how many accounts there are, and InLine
	// how many of these every server holds.
	Servers, InLine, Accounts int
	// Streams is why some of the ledger's streams were not brought up to date; nil if all
	// were.
	Streams error
	// Unrecorded is why what was decided is not in the records; nil if it is.
	Unrecorded error
	// Regions are those that are new: their folders have to be brought to where their
	// services will run.
	Regions []ident.Region
	Took    time.Duration
}

// tries bounds how often a plan is made anew because somebody else was faster.
const tries = 5

// decisionTry bounds one decision. What is asked before a stream has a leader, or again
// has one, is never answered.
const decisionTry = 600 * time.Millisecond

// maxPublic is how large the public part of the platform document may be: it goes to
// clients in an answer, beside a little else.
const maxPublic = wire.MaxAnswer - 1<<10

// writers is how many base claims are written at a time.
const writers = 32

// Apply brings the platform file into force. confirm, if not nil, is asked before anything
// of a plan is done, and again if the plan has to be made anew; its error ends the run. Keys
// that are missing, the accounts that this folder put in force before, and the ledger's
// streams come first, whatever it says: without them nobody can look. It returns when every server that could be reached
// has everything, or when ctx ends; those that do not are named in the result. An error is
// that something else went wrong; whatever was done by then stays, and the next run goes
// on from there.
//
// On a platform that has no ledger yet it makes it: the accounts go to the servers first,
// joined with what these hold, since LEDGER is one of them.
func (t *Tool) Apply(ctx context.Context, confirm func(*plan.Plan) error) (*Result, error) {
	began := t.Now()
	lock, err := t.lock()
	if err != nil {
		return nil, err
	}
	defer func() { _ = lock.Close() }() // it held nothing but the lock

	t.step("keys")
	keys, err := t.Platform.MakeKeys()
	if err != nil {
		return nil, err
	}
	t.step("regions")
	regions, err := t.Platform.Extend(t.Now())
	if err != nil {
		return nil, err
	}
	signer, err := t.Platform.Signer()
	if err != nil {
		return nil, err
	}
	s := &session{Tool: t, signer: signer, result: &Result{Regions: regions}, changes: &Changes{Door: "apply", Now: t.Now}}
	defer s.close()
	// Whatever was decided, also where the rest was not.
	defer func() { s.result.Unrecorded = t.Record(ctx, s.changes) }()
	if err := s.open(ctx); err != nil {
		return s.result, err
	}
	for try := 1; ; try++ {
		again, err := s.once(ctx, keys, confirm)
		if err != nil {
			return s.result, err
		}
		if !again {
			break
		}
		if try == tries {
			return s.result, fmt.Errorf("applying: others changed the platform %d times meanwhile: %w", tries, ledger.ErrConflict)
		}
	}
	s.result.Took = t.Now().Sub(began)
	return s.result, nil
}

// lock keeps two runs on one folder apart. It ends with the process, however that ends.
func (t *Tool) lock() (*os.File, error) {
	path := filepath.Join(t.Platform.Dir.Operator(), ".lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) // #nosec G304 -- a fixed name in the user's folder
	if err != nil {
		return nil, fmt.Errorf("locking the platform folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { // #nosec G115 -- a descriptor is small
		return nil, errors.Join(fmt.Errorf("%s: %w", t.Platform.Dir, ErrBusy), f.Close())
	}
	return f, nil
}

// session is one run: its connections, and what it works with.
type session struct {
	*Tool
	signer   platform.Signer
	result   *Result
	sys      *nats.Conn
	setup    *nats.Conn
	reader   *nats.Conn
	resolver *registrar.Resolver
	decider  *ledger.Decider
	changes  *Changes
	away     bool // some server does not answer
}

func (s *session) close() {
	for _, nc := range []*nats.Conn{s.sys, s.setup, s.reader} {
		if nc != nil {
			nc.Close()
		}
	}
}

// open connects. The accounts that this folder knows go to the servers first: without
// them there may be no account LEDGER to connect to. Where servers have newer ones, or
// revocations, these stay.
func (s *session) open(ctx context.Context) error {
	var err error
	s.step("connect")
	if s.sys, err = s.Dial(ctx, platform.System, platform.RoleSetup); err != nil {
		return err
	}
	s.resolver = registrar.NewResolver(s.sys, s.Platform.Operator, s.signer.Key(), s.Now)
	own, err := s.own()
	if err != nil {
		return err
	}
	s.step("push the accounts of this folder")
	report, err := s.converge(ctx, own)
	if err != nil {
		return err
	}
	// So that whoever is told that it came no further knows who does not answer.
	s.result.Behind, s.result.Servers = report.Behind, len(s.nodes())
	s.away = len(report.Behind) > 0
	s.step("open the ledger")
	store, err := s.ledger(ctx)
	if err != nil {
		return err
	}
	return s.streams(ctx, store)
}

// ledger connects to the ledger, to look and to decide.
func (s *session) ledger(ctx context.Context) (*jetstream.Decisions, error) {
	var err error
	if s.setup, err = s.Dial(ctx, platform.Ledger, platform.RoleSetup); err != nil {
		return nil, err
	}
	if s.reader, err = s.Dial(ctx, platform.Readers, platform.RoleReader); err != nil {
		return nil, err
	}
	store, err := jetstream.NewDecisions(s.setup)
	if err != nil {
		return nil, err
	}
	s.decider = &ledger.Decider{Store: store, Opener: s.opener(), Signer: ledger.KeySigner{Key: s.signer.Key()}, Decided: s.changes.Decided}
	return store, nil
}

// own are Herald's own accounts, as this folder has them.
func (s *session) own() ([]string, error) {
	var tokens []string
	for _, name := range manifest.OwnAccounts() {
		h, ok := s.Platform.Account(name)
		if !ok {
			continue
		}
		token, _, err := s.Platform.Claims(h)
		if err != nil {
			return nil, err
		}
		tokens = append(tokens, token)
	}
	return tokens, nil
}

// once makes a plan and carries it out. It tells whether somebody else was faster and it
// has to be made again.
func (s *session) once(ctx context.Context, keys claims.Keys, confirm func(*plan.Plan) error) (again bool, err error) {
	s.step("look")
	force, err := s.lookUntil(ctx)
	if err != nil {
		return false, err
	}
	want, err := s.want(keys, force)
	if err != nil {
		return false, err
	}
	p, err := s.plan(force, want)
	if err != nil {
		return false, err
	}
	if s.result.Plan == nil || !p.Empty() {
		s.result.Plan = p
	}
	if len(p.Conflicts) > 0 {
		s.result.Plan = p
		return false, fmt.Errorf("%s: %w", p.Conflicts[0].What, ErrConflict)
	}
	if confirm != nil {
		if err := confirm(p); err != nil {
			return false, err
		}
	}
	w, err := s.prepare(p, force, want)
	if err != nil {
		return false, err
	}
	if err := s.carryOut(ctx, w); err != nil {
		if errors.Is(err, ledger.ErrOld) || errors.Is(err, ledger.ErrConflict) {
			return true, nil
		}
		return false, err
	}
	return false, nil
}

// lookUntil looks until the ledger answers: its streams may have no leader yet.
func (s *session) lookUntil(ctx context.Context) (Force, error) {
	for {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		f, err := s.look(try, s.setup, s.reader)
		cancel()
		if d := f.State.Document; err == nil && d != nil {
			s.decider.Epoch = d.Epoch()
		}
		if !errors.Is(err, ledger.ErrUnavailable) || wait.For(ctx, 50*time.Millisecond) != nil {
			return f, err
		}
	}
}

// work is a plan as what has to be written.
type work struct {
	force Force
	// gain is written before the platform document and lose after it: a role that is taken
	// away goes when nobody offers it any more.
	gain, lose []change
	document   *ledger.Document
	newer      bool              // the document has to be written
	tokens     map[string]string // what was written, by account name
	done       plan.Base         // what this folder knows once all is done
}

// change is an account's next base claims.
type change struct {
	claims  *jwt.AccountClaims
	key     ident.AccountKey
	was     uint64
	follows uint64 // see ledger.Base
}

// prepare lays out the steps, and writes down what is intended.
func (s *session) prepare(p *plan.Plan, force Force, want plan.Desired) (*work, error) {
	base, err := s.doing(force)
	if err != nil {
		return nil, err
	}
	w := &work{force: force, tokens: map[string]string{}, done: base.Done(want, p)}
	add := func(to *[]change, c *jwt.AccountClaims, was uint64) error {
		key, err := ident.ParseAccountKey(c.Subject)
		if err != nil {
			return err
		}
		if c, err = s.revoking(c, force); err != nil {
			return err
		}
		base.Intend(c)
		*to = append(*to, change{c, key, was, force.rank()})
		return nil
	}
	for _, a := range p.Accounts {
		was := force.versions[a.Name]
		if a.How == plan.Close {
			if err := add(&w.lose, a.Want, was); err != nil {
				return nil, err
			}
			continue
		}
		first := keeping(a)
		if err := add(&w.gain, first, was); err != nil {
			return nil, err
		}
		if first != a.Want {
			if err := add(&w.lose, a.Want, was+1); err != nil {
				return nil, err
			}
		}
	}
	if w.document, err = p.Merged(); err != nil {
		return nil, err
	}
	w.newer = len(p.Document) > 0 || force.State.Document == nil
	base.IntendDocument(w.document)
	s.step("write down what is intended")
	return w, s.Platform.SaveBase(base)
}

// revoking gives an account's next base claims with the revocations of those before, in
// the ledger and in this folder: servers that lost all that they held have them from there.
func (s *session) revoking(c *jwt.AccountClaims, force Force) (*jwt.AccountClaims, error) {
	held, err := s.Platform.Revocations(c.Name)
	if err != nil {
		return nil, err
	}
	k, ok := force.State.Accounts[c.Name]
	if !ok {
		return platform.WithRevocations(c, held), nil
	}
	was, err := k.Claims()
	if err != nil {
		return nil, err
	}
	return platform.WithRevocations(c, held, was.Revocations), nil
}

// keeping gives an account's wanted claims with the roles that are to go.
func keeping(a plan.Account) *jwt.AccountClaims {
	out := a.Want
	for _, cut := range a.Cut {
		if cut.Back {
			continue
		}
		if out == a.Want {
			v := *a.Want
			v.SigningKeys = jwt.SigningKeys{}
			for k, scope := range a.Want.SigningKeys {
				v.SigningKeys[k] = scope
			}
			out = &v
		}
		out.SigningKeys[cut.Key] = a.Was.SigningKeys[cut.Key]
	}
	return out
}

func (s *session) carryOut(ctx context.Context, w *work) error {
	s.step("write accounts")
	if err := s.write(ctx, w, w.gain); err != nil {
		return err
	}
	full, err := s.putDocument(ctx, w)
	if err != nil {
		return err
	}
	s.step("write accounts that lose something")
	if err := s.write(ctx, w, w.lose); err != nil {
		return err
	}
	return s.finish(ctx, w, full)
}

// write puts base claims into the ledger, and brings them to the servers.
func (s *session) write(ctx context.Context, w *work, changes []change) error {
	if len(changes) == 0 {
		return nil
	}
	tokens := make([]string, len(changes))
	var done atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(writers)
	for i, c := range changes {
		g.Go(func() error {
			token, err := s.put(gctx, c)
			if err != nil {
				return err
			}
			tokens[i] = token
			s.progress("writing accounts", int(done.Add(1)), len(changes))
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, c := range changes {
		w.tokens[c.claims.Name] = tokens[i]
		s.step("account %s is in the ledger", c.claims.Name)
	}
	s.step("push")
	_, err := s.converge(ctx, tokens)
	return err
}

// put writes an account's next base claims. Where the ledger has none yet and this folder's
// first ones, which servers hold by now, say something else, these come before: two that say
// different things must not have one version.
func (s *session) put(ctx context.Context, c change) (string, error) {
	if h, ok := s.Platform.Account(c.claims.Name); ok && c.was == 0 && h.Version == 1 && h.Digest != plan.Digest(c.claims) {
		token, _, err := s.Platform.Claims(h)
		if err != nil {
			return "", err
		}
		if _, err := s.putToken(ctx, c, token); err != nil {
			return "", err
		}
		c.was = 1
	}
	token, err := s.signer.Account(c.claims, c.was+1, s.Now())
	if err != nil {
		return "", fmt.Errorf("signing account %s: %w", c.claims.Name, err)
	}
	return s.putToken(ctx, c, token)
}

// putToken writes what was signed, and gives what is there then.
func (s *session) putToken(ctx context.Context, c change, token string) (string, error) {
	err := s.until(ctx, func(ctx context.Context) error {
		e, err := s.decider.PutBase(ctx, c.key, ledger.Base{JWT: token, Follows: c.follows}, c.was, s.Now())
		if b, ok := e.Body.(ledger.Base); err == nil && ok {
			token = b.JWT // put by an earlier try
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("account %s: %w", c.claims.Name, err)
	}
	return token, nil
}

// until asks the ledger again until it answers.
func (s *session) until(ctx context.Context, f func(context.Context) error) error {
	for {
		try, cancel := context.WithTimeout(ctx, decisionTry)
		err := f(try)
		cancel()
		if err == nil || !errors.Is(err, ledger.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		if wait.For(ctx, 50*time.Millisecond) != nil {
			return err
		}
	}
}

// putDocument puts the platform document, unless it is there. It gives what is in force.
func (s *session) putDocument(ctx context.Context, w *work) (string, error) {
	if !w.newer {
		return w.force.document.Token, nil
	}
	d := w.document
	s.step("give issuers the keys of roles")
	if err := s.Platform.GiveKeys(d); err != nil {
		return "", err
	}
	s.step("write the platform document")
	d.Public.Operator = s.Platform.Operator.Key()
	was := s.Platform.Document
	if w.force.State.Document != nil {
		was = w.force.State.Document.Public
	}
	d.Public.Version, d.Public.EpochProof = was.Version, was.EpochProof
	full := s.Platform.FullToken
	if w.force.State.Document != nil || !plan.Equal(d, s.Platform.Full) {
		d.Public.Version.Number++
		var err error
		if full, err = s.signer.Document(d, s.Now()); err != nil {
			return "", fmt.Errorf("signing the platform document: %w", err)
		}
	}
	e, err := s.opener().Open(ledger.PlatformKey().String(), full)
	if err != nil {
		return "", fmt.Errorf("the platform document: %w", err)
	}
	if signed, ok := e.Body.(*ledger.Document); ok && len(signed.PublicToken) > maxPublic {
		return "", fmt.Errorf("the public part of the platform document has %d bytes, more than the %d that clients take: grant fewer accounts, or have fewer regions",
			len(signed.PublicToken), maxPublic)
	}
	err = s.until(ctx, func(ctx context.Context) error {
		_, err := s.decider.PutDocument(ctx, full)
		return err
	})
	return full, err
}

// finish writes the folder, and sees that all servers have everything.
func (s *session) finish(ctx context.Context, w *work, full string) error {
	// Also what others put in force: the folder has all of it.
	maps.Copy(w.force.tokens, w.tokens)
	s.step("write the folder")
	if err := s.Platform.Use(full, slices.Collect(maps.Values(w.force.tokens)), s.Now()); err != nil {
		return err
	}
	s.step("note that it is done")
	if err := errors.Join(s.Platform.SaveFile(), s.Platform.SaveBase(w.done)); err != nil {
		return err
	}
	if err := s.retire(w); err != nil {
		return err
	}
	s.result.Version = s.Platform.Document.Version
	s.step("confirm")
	if err := s.confirm(ctx); err != nil {
		return err
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return nil // the next run reads a little more
	}
	s.step("note the position")
	f, err := s.lookUntil(ctx)
	if err != nil {
		return err
	}
	if len(f.tokens) > 0 && !s.has(f) {
		return nil // somebody was here meanwhile; the next run reads it
	}
	return s.savePosition(f.at)
}

// has tells whether this folder has everything that was read.
func (s *session) has(f Force) bool {
	mine := map[string]uint64{}
	for _, h := range s.Platform.Held() {
		mine[h.Name] = h.Version
	}
	for name := range f.tokens {
		if mine[name] != f.versions[name] {
			return false
		}
	}
	return true
}

// retire puts the keys of roles that are gone aside: a role of that name that comes again
// has a new one, and nobody's old credential.
func (s *session) retire(w *work) error {
	s.step("retire keys")
	for _, c := range w.lose {
		want := map[string]bool{}
		for _, scope := range c.claims.SigningKeys {
			if u, ok := scope.(*jwt.UserScope); ok {
				want[u.Role] = true
			}
		}
		if err := s.Platform.Retire(c.claims.Name, func(role string) bool { return want[role] }); err != nil {
			return err
		}
	}
	return nil
}

// converge brings accounts to the servers.
func (s *session) converge(ctx context.Context, tokens []string) (registrar.Report, error) {
	return s.resolver.Converge(ctx, tokens, s.nodes())
}

// confirmLeast is how long servers are asked at least whether they have everything.
const confirmLeast = 15 * time.Second

// confirm sees that every server that answers has every account. Those that do not are
// named in the result.
func (s *session) confirm(ctx context.Context) error {
	all, err := s.Platform.Tokens()
	if err != nil {
		return err
	}
	// All is decided. Who is in line is found out also if the time is over meanwhile.
	cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), confirmLeast)
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		if !errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
			cancel()
		}
	})()
	if end, ok := ctx.Deadline(); ok && time.Until(end) > confirmLeast {
		cctx = ctx
	}
	report, err := s.converge(cctx, all)
	if err != nil {
		return err
	}
	s.result.Behind, s.result.Servers = report.Behind, len(s.nodes())
	s.result.InLine, s.result.Accounts = report.InLine(), len(report.Accounts)
	for _, a := range report.Accounts {
		if a.Err != nil {
			return fmt.Errorf("account %s: %w", a.Name, a.Err)
		}
	}
	return nil
}
