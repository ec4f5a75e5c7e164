// Package apply brings what an operator describes into force: to the ledger, and to the
// servers. pkg/platform/plan says what has to change; this package looks at what is in
// force, and carries a plan out, so that it may be cut off at any point and begun again.
package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/claims"
	"github.com/herald-nats/herald/pkg/platform/plan"
	"github.com/herald-nats/herald/pkg/subject"
)

// toolLife is how long the set-up tool's own users live: one run.
const toolLife = 10 * time.Minute

// Tool works on a platform with the set-up tool's rights.
type Tool struct {
	Platform *platform.Platform
	Log      *slog.Logger
	Now      func() time.Time
	// URLs are where to connect; nil: what the platform file says, home first.
	URLs []string
	// Nodes are the names of the servers that there should be; nil: those of the file.
	Nodes []string
	// Override takes what the file says also where somebody else changed it.
	Override bool
	// Step is told of each step before it is taken; nil tells nobody. Tests end the
	// process there.
	Step func(what string)
	// Progress is told how far a long step is; nil tells nobody.
	Progress func(what string, done, of int)
}

func (t *Tool) step(format string, args ...any) {
	if t.Step != nil {
		t.Step(fmt.Sprintf(format, args...))
	}
}

func (t *Tool) progress(what string, done, of int) {
	if t.Progress != nil {
		t.Progress(what, done, of)
	}
}

// Dial connects as a short-lived user of one of Herald's own roles.
func (t *Tool) Dial(ctx context.Context, account, role string) (*nats.Conn, error) {
	return t.DialFor(ctx, "nscsetup", account, role)
}

// DialFor is Dial for a user of that name, by which services know who it is.
func (t *Tool) DialFor(ctx context.Context, name, account, role string) (*nats.Conn, error) {
	user, err := t.Platform.MintFor(name, account, role, t.Now(), toolLife)
	if err != nil {
		return nil, err
	}
	key, err := ident.ParseUserKey(user.Key.Public())
	if err != nil {
		return nil, err
	}
	return t.dialAs(ctx, natsconn.Static{Token: user.Token, Key: user.Key}, key)
}

func (t *Tool) dialAs(ctx context.Context, creds natsconn.Static, self ident.UserKey) (*nats.Conn, error) {
	urls := t.URLs
	if len(urls) == 0 {
		urls = t.urls()
	}
	return natsconn.Dial(ctx, natsconn.Options{
		URLs: urls, Name: "nscsetup", InboxPrefix: subject.ServiceInboxPrefix(self), Log: t.Log,
		Credential: creds, TLS: natsconn.TLSFiles(t.Platform.Dir.Tool()),
	})
}

// urls are all servers that the file names, home's first.
func (t *Tool) urls() []string {
	f := t.Platform.File
	var near, far []string
	for _, r := range f.Regions {
		if r.Name == f.Home {
			near = append(near, f.ClientURLs(r)...)
		} else {
			far = append(far, f.ClientURLs(r)...)
		}
	}
	return append(near, far...)
}

// nodes are the names of all servers that there should be.
func (t *Tool) nodes() []string {
	if t.Nodes != nil {
		return t.Nodes
	}
	var names []string
	for _, r := range t.Platform.File.Regions {
		for _, n := range r.Nodes {
			names = append(names, n.Name.String())
		}
	}
	return names
}

// Force is what is in force.
type Force struct {
	State plan.State
	// Ledger tells whether there is a ledger to ask. Without one, what this folder put in
	// force is all that is known.
	Ledger bool
	// versions are those of the base claims in the ledger, by account name; 0: not there.
	versions map[string]uint64
	tokens   map[string]string // the JWTs that this folder does not have, by account name
	document ledger.Entry      // zero: there is none
	at       position          // up to where base claims were read
}

// rank is that of the platform document in force; 0: there is none.
func (f Force) rank() uint64 {
	if f.State.Document == nil {
		return 0
	}
	return f.State.Document.Public.Version.Rank()
}

// position is up to where of home's bucket this folder has all base claims, so that ten
// thousand of them need not be read at each plan.
type position struct {
	Seq   uint64    `json:"seq"`
	First time.Time `json:"first"` // when the bucket's oldest entry was stored: it tells one made anew
}

const positionFile = "position.json"

// Local is what this folder put in force, for where no ledger can be asked.
func (t *Tool) Local() Force {
	f := Force{versions: map[string]uint64{}, tokens: map[string]string{}}
	f.State.Accounts = make(map[string]plan.Known, len(t.Platform.Held()))
	for _, h := range t.Platform.Held() {
		f.State.Accounts[h.Name] = plan.Known{
			Key: h.Key.String(), Digest: h.Digest, Closed: h.Closed,
			Claims: func() (*jwt.AccountClaims, error) {
				_, c, err := t.Platform.Claims(h)
				return c, err
			},
		}
	}
	f.State.Document = t.Platform.Full
	return f
}

// Look reads what is in force from the ledger.
func (t *Tool) Look(ctx context.Context) (Force, error) {
	setup, err := t.Dial(ctx, platform.Ledger, platform.RoleSetup)
	if err != nil {
		return Force{}, err
	}
	defer setup.Close()
	reader, err := t.Dial(ctx, platform.Readers, platform.RoleReader)
	if err != nil {
		return Force{}, err
	}
	defer reader.Close()
	return t.look(ctx, setup, reader)
}

func (t *Tool) opener() ledger.Opener {
	return ledger.Opener{Operator: t.Platform.Operator, Now: t.Now, Check: platform.CheckDocument}
}

// look reads the platform document and, from where this folder knows them on, the base
// claims of accounts.
func (t *Tool) look(ctx context.Context, setup, reader *nats.Conn) (Force, error) {
	f := t.Local()
	f.Ledger = true
	decisions, err := jetstream.NewDecisions(setup)
	if err != nil {
		return f, err
	}
	token, _, err := decisions.Get(ctx, ledger.PlatformKey())
	switch {
	case errors.Is(err, ledger.ErrNotFound):
		f.State.Document = nil
	case err != nil:
		return f, fmt.Errorf("reading the platform document: %w", err)
	default:
		if f.document, err = t.opener().Open(ledger.PlatformKey().String(), token); err != nil {
			return f, fmt.Errorf("reading the platform document: %w", err)
		}
		f.State.Document, _ = f.document.Body.(*ledger.Document)
	}
	return f, t.bases(ctx, decisions, jetstream.BasesSource(reader, t.Platform.File.Home), &f)
}

// few is how many entries are read one by one from the leader.
const few = 200

// bases brings f up to what the leader has. Where that is much, the mirror beside it gives
// it in batches; what the mirror does not have yet, the leader does.
func (t *Tool) bases(ctx context.Context, leader *jetstream.Decisions, mirror *jetstream.Source, f *Force) error {
	first, last, err := leader.BaseEnds(ctx)
	if err != nil {
		return fmt.Errorf("reading the accounts in force: %w", err)
	}
	f.at = t.position()
	if f.at.Seq == 0 || !f.at.First.Equal(first.At) || f.at.Seq > last.Seq {
		// Nothing is known of this bucket: it is read whole.
		f.at = position{First: first.At}
		f.State.Accounts = map[string]plan.Known{}
	} else {
		for _, h := range t.Platform.Held() {
			f.versions[h.Name] = h.Version
		}
	}
	for from := f.at.Seq; f.at.Seq < last.Seq; {
		var batch []ledger.Stored
		if last.Seq-f.at.Seq > few {
			batch, err = mirror.Read(ctx, f.at.Seq, 1000)
		}
		if len(batch) == 0 || err != nil {
			batch, err = leader.ReadBases(ctx, f.at.Seq, few)
		}
		if err != nil {
			return fmt.Errorf("reading the accounts in force: %w", err)
		}
		if len(batch) == 0 {
			break // they were replaced meanwhile
		}
		for _, s := range batch {
			if err := t.base(s, f); err != nil {
				return err
			}
			f.at.Seq = s.Seq
		}
		t.progress("reading the ledger", int(f.at.Seq-from), int(last.Seq-from)) // #nosec G115 -- far below
	}
	return nil
}

// base takes an entry of base claims into f.
func (t *Tool) base(s ledger.Stored, f *Force) error {
	e, err := t.opener().Open(s.Subject, s.Data)
	if err != nil {
		return fmt.Errorf("reading the accounts in force: %w", err)
	}
	b, ok := e.Body.(ledger.Base)
	if !ok {
		return fmt.Errorf("reading the accounts in force: %s has a body of type %T", e.Key, e.Body)
	}
	c, err := t.Platform.Operator.VerifyAccount(b.JWT)
	if err != nil {
		return fmt.Errorf("reading the accounts in force: %w", err)
	}
	if have, ok := f.State.Accounts[c.Name]; ok && have.Key != c.Subject {
		return fmt.Errorf("two accounts in force are called %s, %s and %s: %w", c.Name, have.Key, c.Subject, plan.ErrOtherKey)
	}
	f.State.Accounts[c.Name] = plan.Of(c)
	f.versions[c.Name], f.tokens[c.Name] = e.Version, b.JWT
	return nil
}

func (t *Tool) position() position {
	var p position
	data, err := os.ReadFile(filepath.Join(t.Platform.Dir.Operator(), positionFile))
	if err != nil || json.Unmarshal(data, &p) != nil {
		return position{} // then everything is read
	}
	return p
}

func (t *Tool) savePosition(p position) error {
	data, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encoding the position: %w", err)
	}
	return keystore.ReplaceSecret(filepath.Join(t.Platform.Dir.Operator(), positionFile), data)
}

// Plan holds the platform file against what is in force.
func (t *Tool) Plan(f Force) (*plan.Plan, error) {
	keys, err := t.Platform.Keys()
	if err != nil {
		return nil, err
	}
	want, err := t.want(keys, f)
	if err != nil {
		return nil, err
	}
	want.Unmade = t.Platform.Unmade(keys)
	return t.plan(f, want)
}

// want is what the file describes, with the role keys that are in force: registrars replace them
// step by step.
func (t *Tool) want(keys claims.Keys, f Force) (plan.Desired, error) {
	in := f.State.Document
	if in != nil {
		keys.Roles, keys.Regions = maps.Clone(keys.Roles), maps.Clone(keys.Regions)
		keys.Follow(in.Public)
	}
	want, err := plan.Want(claims.New(t.Platform.File, keys), t.Platform.Operator.Key())
	if err != nil || in == nil {
		return want, err
	}
	want.Document.Moves = in.Moves
	if len(in.Rotations) > 0 && !sameRegions(in.Public, t.Platform.File) {
		// The new key is sealed to the regions that there were.
		r := in.Rotations[0]
		return want, fmt.Errorf("regions cannot change now: role %s/%s: %w", r.Account, r.Role, ledger.ErrRotating)
	}
	if len(in.SealRotations) > 0 && !sameRegions(in.Public, t.Platform.File) {
		return want, fmt.Errorf("regions cannot change now: %s: %w", in.SealRotations[0].What(), ledger.ErrRotating)
	}
	want.Document.SealRotations = slices.Clone(in.SealRotations)
	for _, r := range in.Rotations {
		if a, ok := want.Document.Public.Account(r.Account); !ok || !a.HasRole(r.Role) {
			return want, fmt.Errorf("role %s/%s goes with platform.yaml as it is: %w", r.Account, r.Role, ledger.ErrRotating)
		}
		want.Document.Rotations = append(want.Document.Rotations, r)
	}
	return want, nil
}

// doing is what this folder knows of its own doing, held against what is in force.
func (t *Tool) doing(f Force) (plan.Base, error) {
	base, err := t.Platform.Base()
	if err != nil {
		return base, err
	}
	return plan.Rekeyed(base, t.Local().State, f.State), nil
}

func (t *Tool) plan(f Force, want plan.Desired) (*plan.Plan, error) {
	base, err := t.doing(f)
	if err != nil {
		return nil, err
	}
	return plan.Compute(base, f.State, want, t.Override)
}
