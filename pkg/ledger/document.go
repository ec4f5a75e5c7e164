package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/herald-nats/herald/pkg/authn/oidc"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// Document is the platform document: all that an operator decides about the
// platform, as one statement with one version. Its public part is a document of its
// own, which clients verify without seeing the rest.
type Document struct {
	Public      *trust.Platform
	PublicToken string // what auth.v1.info hands out
	Policy      policy.Policy
	Names       NameRules
	Providers   []oidc.Provider // whose tokens show who asks
	// AuditRequired: what grants something is recorded first, or not granted.
	AuditRequired bool
	// Servers are those that there should be. A registrar that says who has heard of a
	// revocation goes by it, because who is away does not say so.
	Servers []Servers
	// Rotations are role keys that are being replaced, and SealRotations region keys and the
	// callout key.
	Rotations     []Rotation
	SealRotations []SealRotation
	// Moves are homes that were given up, the last one last.
	Moves []Move

	index func() *policy.Index
}

// Servers are those of one region, by the names that they give themselves.
type Servers struct {
	Region ident.Region `json:"region"`
	Names  []ident.Name `json:"names"`
}

// ServerNames are the names of all servers that there should be; none where the document does
// not say.
func (d *Document) ServerNames() []string {
	var out []string
	for _, r := range d.Servers {
		for _, n := range r.Names {
			out = append(out, n.String())
		}
	}
	return out
}

// Grants is the policy, ready to decide by.
func (d *Document) Grants() *policy.Index {
	if d.index == nil { // it was put together, and not opened
		return policy.NewIndex(d.Policy)
	}
	return d.index()
}

// documentBody is the entry's body.
type documentBody struct {
	Public        string          `json:"public"`
	Policy        policy.Policy   `json:"policy"`
	Names         NameRules       `json:"names"`
	Providers     []oidc.Provider `json:"providers,omitempty"`
	Audit         string          `json:"audit,omitempty"` // auditRequired, or nothing
	Servers       []Servers       `json:"servers,omitempty"`
	Rotations     []Rotation      `json:"rotations,omitempty"`
	SealRotations []SealRotation  `json:"seal_rotations,omitempty"`
	Moves         []Move          `json:"moves,omitempty"`
}

const auditRequired = "required"

// SignDocument is Document.Sign, for one without providers.
func SignDocument(s KeySigner, public *trust.Platform, p policy.Policy, names NameRules, now time.Time) (string, error) {
	return (&Document{Public: public, Policy: p, Names: names}).Sign(s, now)
}

// Sign gives the token of a platform document: its public part is signed
// first, then all of it, by the same operator signing key. Its version is the public
// part's.
func (d *Document) Sign(s KeySigner, now time.Time) (string, error) {
	// Clients are told how they can show who they are: that follows from the rest.
	public := *d.Public
	public.Ways, public.Providers = d.ways(), d.told()
	token, err := public.Sign(s.Key, now)
	if err != nil {
		return "", err
	}
	b := documentBody{
		Public: token, Policy: d.Policy, Names: d.Names, Providers: d.Providers, Servers: d.Servers, Rotations: d.Rotations, SealRotations: d.SealRotations, Moves: d.Moves,
	}
	if d.AuditRequired {
		b.Audit = auditRequired
	}
	body, err := json.Marshal(b)
	if err != nil {
		return "", fmt.Errorf("encoding the platform document: %w", err)
	}
	return s.Sign(trust.Entry{Subject: PlatformKey().s, Version: d.Public.Version.Rank(), At: now.UnixMilli(), Body: body})
}

// ways are the ways to show who asks by which something is offered.
func (d *Document) ways() []string {
	kinds := map[string]bool{}
	for _, o := range d.Policy.Offers {
		switch {
		case o.Identity != nil:
			kinds[o.Identity.Kind()] = true
		case o.Kind != "":
			kinds[o.Kind] = true
		case o.Everyone:
			for _, w := range wayOf() {
				kinds[w.kind] = true
			}
		case o.Category != "":
			for _, n := range d.Policy.Identities {
				if strings.HasPrefix(n.Name.String(), o.Category+".") {
					kinds[n.Identity.Kind()] = true
				}
			}
		}
	}
	var out []string
	for _, w := range wayOf() {
		if kinds[w.kind] && (w.kind != ident.KindOIDC || len(d.Providers) > 0) {
			out = append(out, w.proof)
		}
	}
	return out
}

type way struct{ kind, proof string }

// wayOf are the kinds of identities, each with the proof that gives it.
func wayOf() []way {
	return []way{
		{ident.KindOpen, wire.ProofOpen},
		{ident.KindInvite, wire.ProofInvite},
		{ident.KindKey, wire.ProofKey},
		{ident.KindOIDC, wire.ProofOIDC},
	}
}

// told is what clients need to know of providers.
func (d *Document) told() []trust.Provider {
	var out []trust.Provider
	for _, p := range d.Providers {
		tokens := p.Tokens
		if len(tokens) == 0 {
			tokens = []string{oidc.TokenID}
		}
		out = append(out, trust.Provider{Name: p.Name, Issuer: p.Issuer, Audiences: p.Audiences, Tokens: tokens})
	}
	return out
}

// MaxLife is the longest that any credential may live. Records are looked through for
// that long, also under a policy that has become shorter, so that nobody who holds a
// credential is forgotten.
const MaxLife = 31 * 24 * time.Hour

// openDocument reads a platform document whose signature is verified.
func openDocument(op *trust.Operator, e trust.Entry) (*Document, error) {
	b, err := decode[documentBody](e.Body)
	if err != nil {
		return nil, err
	}
	d := &Document{
		PublicToken: b.Public, Policy: b.Policy, Names: b.Names, Providers: b.Providers, AuditRequired: b.Audit == auditRequired, Servers: b.Servers,
		Rotations: b.Rotations, SealRotations: b.SealRotations, Moves: b.Moves,
	}
	if d.Public, err = op.OpenPlatform(b.Public); err != nil {
		return nil, fmt.Errorf("its public part: %w", err)
	}
	if d.Public.Version.Rank() != e.Version || e.Denies {
		return nil, fmt.Errorf("version %d around a public part of version %s: %w", e.Version, d.Public.Version, trust.ErrUntrusted)
	}
	// Who does not know what is asked of it does not issue as if nothing were.
	if b.Audit != "" && b.Audit != auditRequired {
		return nil, fmt.Errorf("its rule for records is %.20q, which is not known", b.Audit)
	}
	// A name that gains less than a step is not kept for longer: with a step beyond the
	// lapse it would lapse in its holder's hands.
	if b.Names.Lapse <= 0 || b.Names.Rest < 0 || b.Names.Step <= 0 || b.Names.Step > b.Names.Lapse || b.Names.Most < 0 || b.Names.Most > MaxMostNames {
		return nil, fmt.Errorf("its rules for names are out of shape")
	}
	d.index = sync.OnceValue(func() *policy.Index { return policy.NewIndex(d.Policy) })
	return d, d.check()
}

// check refuses a document that would leave the platform without what it needs.
func (d *Document) check() error {
	if len(d.Policy.Offers) == 0 {
		return fmt.Errorf("it offers nothing to anybody")
	}
	if _, ok := d.Public.Region(d.Public.Home); !ok {
		return fmt.Errorf("its home %s is none of its regions", d.Public.Home)
	}
	if err := errors.Join(d.checkRotations(), d.checkSealRotations()); err != nil {
		return err
	}
	if err := d.checkMoves(); err != nil {
		return err
	}
	if bad := oidc.Check("providers", d.Providers); len(bad) > 0 {
		return fmt.Errorf("an identity provider is out of shape: %s", bad[0])
	}
	if err := d.Policy.Check(); err != nil {
		return fmt.Errorf("its policy: %w", err)
	}
	for _, o := range d.Policy.Offers {
		a, ok := d.Public.Account(o.Account)
		if !ok {
			return fmt.Errorf("it offers a role of account %s, which it does not have", o.Account)
		}
		if !a.HasRole(o.Role) {
			return fmt.Errorf("it offers role %s/%s, which it does not have", o.Account, o.Role)
		}
		if o.Longest.Duration() > MaxLife {
			return fmt.Errorf("credentials of role %s/%s would live longer than %s", o.Account, o.Role, MaxLife)
		}
	}
	return nil
}

// PutDocument puts a platform document that was signed, if it is newer than the one
// that the ledger has. Putting what is there changes nothing. ErrOld, ErrDamaged,
// ErrAhead, ErrConflict, ErrUnavailable.
func (d *Decider) PutDocument(ctx context.Context, token string) (Entry, error) {
	key := PlatformKey()
	e, err := d.Opener.Open(key.s, token)
	if err != nil {
		return Entry{}, err
	}
	cur, revision, err := d.get(ctx, key)
	// What is damaged, lost or from the future is mended by a document that its signer
	// made for that.
	if err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrLost) && !errors.Is(err, ErrAhead) {
		return Entry{}, err
	}
	if d.Known != nil && d.Known(key) > e.Version {
		return Entry{}, fmt.Errorf("the platform document: %w", ErrOld)
	}
	if cur != nil {
		if cur.Sum == e.Sum {
			return e, nil
		}
		if cur.Version >= e.Version {
			return Entry{}, fmt.Errorf("the platform document: %w", ErrOld)
		}
	}
	if err := d.Store.Put(ctx, key, token, revision); err != nil {
		return Entry{}, fmt.Errorf("putting the platform document: %w", err)
	}
	if d.Decided != nil {
		d.Decided(e)
	}
	return e, nil
}
