package nscsetup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/authn/oidc"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/inspect"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

type replayOptions struct{ since, region string }

func newReplay(g *globals) *cobra.Command {
	var o replayOptions
	c := &cobra.Command{
		Use:   "replay FILE",
		Short: "Say whose answer a changed platform.yaml would change",
		Long: `replay holds a changed platform.yaml against what was asked for, and lists whose answer
would be another: who would be refused, who would get another lifetime or other tags, and
who was refused and would get something. Nothing is changed.

It reads the records of all regions: who has a credential that has not ended, or, with
--since, who was issued one since then. Each is decided once by the grants in force and
once by those of the file, as when the credential is renewed: for the same role and name,
with no lifetime asked for, and with the longest that it got. Who would be refused either
way, such as the holder of an access key that was disabled since, is not listed.

What policy refused is in the records for logins and access keys, each once an hour, and
is decided as when it is asked for again. A record has no groups and claims: where a
grant of the file asks for some that no grant in force does, the answer is "perhaps".

A renewal brings no token. Where a grant's conditions on groups or claims are changed, who
came in by them has to log in again, and is listed as refused; what a login gives them
then, 'nscsetup explain --token' says. So it is with a provider of which more is asked.

Exit codes: 0 if nobody's would differ, 1 if somebody's would; 3 if the records of some
region could not be read; 5 if no server could be reached; 8 if the file has mistakes.`,
		Example: `  nscsetup replay new.yaml
  nscsetup replay platform.yaml --since 24h
  nscsetup replay new.yaml --region sfo --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runReplay(cmd.Context(), g, o, args[0]) },
	}
	f := c.Flags()
	f.StringVar(&o.since, "since", "", "what was issued in this `time`, such as 24h (default: what has not ended)")
	f.StringVar(&o.region, "region", "", "only what this `region` issued")
	return c
}

// replayed is what `replay --json` says.
type replayed struct {
	File   string         `json:"file"`
	Since  string         `json:"since"`
	Looked int            `json:"looked_at"` // identities, each with a role and a name
	Differ []replayedRow  `json:"differ"`
	Notes  []string       `json:"notes,omitempty"`
	Behind []ident.Region `json:"behind,omitempty"` // whose records could not be read
}

// replayedRow is one whose answer would be another.
type replayedRow struct {
	Identity string         `json:"identity"`
	Role     string         `json:"role"` // ACCOUNT/ROLE
	Name     string         `json:"name"`
	Before   replayedAnswer `json:"before"`
	After    replayedAnswer `json:"after"`
}

// replayedAnswer is what somebody gets: the role and the name are those that were asked
// for, or it is refused.
type replayedAnswer struct {
	Granted  bool      `json:"granted"`
	Code     wire.Code `json:"code,omitempty"`     // of a refusal
	Perhaps  string    `json:"perhaps,omitempty"`  // refused, unless it meets this, of which nothing is known
	Name     string    `json:"name,omitempty"`     // where none was asked for
	As       string    `json:"as,omitempty"`       // ACCOUNT/ROLE, where not both were asked for
	Lifetime int64     `json:"lifetime,omitempty"` // seconds
	Tags     []string  `json:"tags,omitempty"`
}

func (a replayedAnswer) equal(b replayedAnswer) bool {
	return a.Granted == b.Granted && a.Code == b.Code && a.Perhaps == b.Perhaps && a.Name == b.Name && a.As == b.As && a.Lifetime == b.Lifetime && slices.Equal(a.Tags, b.Tags)
}

// say is an answer for people, with those of its tags that the other has not.
func (a replayedAnswer) say(other replayedAnswer) string {
	switch {
	case a.Perhaps != "":
		return "perhaps, if " + a.Perhaps
	case !a.Granted:
		return "refused: " + string(a.Code)
	}
	s := "for " + seconds(a.Lifetime)
	if a.As != "" {
		s = a.As + " " + s
	}
	if a.Name != "" {
		s = "as " + a.Name + " " + s
	}
	var own []string
	for _, tag := range a.Tags {
		if other.Granted && !slices.Contains(other.Tags, tag) {
			own = append(own, tag)
		}
	}
	if len(own) > 0 {
		s += ", with " + strings.Join(own, ", ")
	}
	return s
}

// holding is what somebody was issued, as often as that was.
type holding struct {
	identity ident.Identity
	account  ident.AccountKey
	role     ident.Label
	name     ident.Name
	asked    ident.Label // of a request that was refused, the account's name
	refused  bool
}

func runReplay(ctx context.Context, g *globals, o replayOptions, path string) error {
	p, err := g.look()
	if err != nil {
		return err
	}
	next, err := g.changed(p, path)
	if err != nil {
		return err
	}
	now := time.Now()
	// Nobody has a credential for longer than policy lets anybody have one.
	since := now.Add(-max(p.Full.Policy.Longest(), 24*time.Hour))
	if o.since != "" {
		d, err := manifest.ParseDuration(o.since)
		if err != nil {
			return cli.Errorf(cli.Usage, "write it as 24h or 7d", "--since: %w", err)
		}
		since = now.Add(-time.Duration(d))
	}
	var only ident.Region
	if o.region != "" {
		if only, err = known(p, o.region); err != nil {
			return err
		}
	}
	r, err := g.reader(ctx, p, only)
	if err != nil {
		return err
	}
	defer r.close()
	out := replayed{File: path, Since: since.UTC().Format(time.RFC3339), Differ: []replayedRow{}}
	holders, err := out.holders(ctx, r, p, only, since, func(rec audit.Record) bool {
		switch {
		case !rec.Granted():
			return byPolicy(rec) && !rec.Time().Before(since)
		case o.since != "":
			return rec.Issued >= since.Unix()
		}
		return rec.Expires > now.Unix()
	})
	if err != nil {
		return err
	}
	proofs, err := r.proofs(ctx)
	if err != nil {
		return err
	}
	names := map[ident.AccountKey]ident.Label{}
	for _, a := range p.Document.Accounts {
		names[a.Key] = a.Name
	}
	if err := out.decide(ctx, holders, names, proofs, inForce(p), next, now); err != nil {
		return err
	}
	if err := g.printReplayed(out); err != nil {
		return err
	}
	if err := r.verdict(); err != nil {
		return err
	}
	switch {
	case len(out.Behind) > 0:
		return cli.Errorf(cli.Partial, "are that region's servers up? what the others have is shown", "the records of %s could not be read", join(out.Behind))
	case len(out.Differ) > 0:
		return cli.Silent(cli.Failed)
	}
	return nil
}

// changed are the terms of a platform file that may come into force.
func (g *globals) changed(p *platform.Platform, path string) (terms, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		return terms{}, cli.Errorf(cli.Config, "name a changed platform.yaml", "%s is no file", path)
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(path) // #nosec G304 -- the file that the user named
	}
	if err != nil {
		return terms{}, fmt.Errorf("reading the changed platform file: %w", err)
	}
	f, err := manifest.Parse(path, data)
	var problems manifest.Problems
	if errors.As(err, &problems) {
		if len(problems) == 1 {
			return terms{}, cli.Errorf(cli.Config, problems[0].Hint, "%w", err)
		}
		for _, problem := range problems {
			if perr := cli.Print(g.Err, "%s\n    %s\n", cli.Line(problem.String()), cli.Line(problem.Hint)); perr != nil {
				return terms{}, perr
			}
		}
		return terms{}, cli.Errorf(cli.Config, "correct it at the lines above", "%s has %d problems: %w", path, len(problems), manifest.ErrInvalid)
	}
	if err != nil {
		return terms{}, err
	}
	if f.Name.String() != p.Document.Name {
		return terms{}, cli.Errorf(cli.Config, "name a changed platform.yaml of this platform", "%s is of the platform %s, and this folder is of %s", path, f.Name, p.Document.Name)
	}
	return termsOf(f, path)
}

// holders are who has what, each with the record of it that was issued last; its life is
// the longest of all. What was revoked, or whose holder is suspended, is not renewed
// whatever the grants say, and left out.
func (out *replayed) holders(ctx context.Context, r *reader, p *platform.Platform, only ident.Region, since time.Time, counts func(audit.Record) bool) (map[holding]audit.Record, error) {
	denials, err := r.denials(ctx)
	if err != nil {
		return nil, err
	}
	last := map[holding]audit.Record{}
	var unread error
	for _, region := range p.Document.Regions {
		if !only.IsZero() && region.Name != only {
			continue
		}
		err := r.requests(ctx, region.Name, since, func(rec audit.Record) {
			if !counts(rec) || rec.Granted() && denials.RevokedBefore(rec.Account, rec.User) >= rec.Issued {
				return
			}
			if _, suspended := denials.Denied(rec.Identity, rec.Account, rec.User); suspended {
				return
			}
			h := holding{rec.Identity, rec.Account, rec.Role, rec.Name, rec.Asked, rec.Refused != ""}
			have, ok := last[h]
			life := max(rec.Expires-rec.Issued, have.Expires-have.Issued)
			if !ok || rec.At >= have.At {
				have = rec
			}
			have.Expires = have.Issued + life
			last[h] = have
		})
		if err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			unread = err
			out.Behind = append(out.Behind, region.Name)
		}
	}
	if len(last) == 0 && unread != nil {
		return nil, unread // nothing is known
	}
	return last, nil
}

// byPolicy tells whether a record is of what policy refused to a login or an access key, for
// a new credential: what it may decide otherwise when it is changed.
func byPolicy(rec audit.Record) bool {
	switch rec.Refused {
	case wire.NoGrant, wire.RoleNotGranted, wire.BadName:
	default:
		return false
	}
	kind := rec.Identity.Kind()
	return rec.Door != "renew" && rec.Count == 0 && (kind == ident.KindKey || kind == ident.KindOIDC)
}

// proofs are the access keys and invitations that a region knows.
func (r *reader) proofs(ctx context.Context) (*ledger.Projection, error) {
	known := ledger.NewProjection(nil)
	for _, k := range []ledger.Kind{ledger.KindAccessKey, ledger.KindInvite} {
		if err := r.entries(ctx, k, func(e ledger.Entry) { known.Apply(e) }); err != nil {
			return nil, err
		}
	}
	return known, nil
}

// decide holds each against both terms. accounts are the names of those in force.
func (out *replayed) decide(ctx context.Context, holders map[holding]audit.Record, accounts map[ident.AccountKey]ident.Label, proofs *ledger.Projection, before, after terms, now time.Time) error {
	was, is := newRenewals(before, proofs), newRenewals(after, proofs)
	defer was.close()
	defer is.close()
	gone := 0
	for h, rec := range holders {
		if h.refused {
			out.Looked++
			if err := out.again(ctx, was, is, rec, now); err != nil {
				return err
			}
			continue
		}
		account, ok := accounts[h.account]
		if !ok {
			gone++ // the account is no more, and with it what is renewed in it
			continue
		}
		out.Looked++
		for _, ttl := range []time.Duration{0, time.Duration(rec.Expires-rec.Issued) * time.Second} {
			wish := policy.Wish{Account: account, Role: h.role, Name: h.name, TTL: ttl, Callout: rec.Server != ""}
			a, err := was.answer(ctx, rec, wish, now)
			if err != nil {
				return err
			}
			b, err := is.answer(ctx, rec, wish, now)
			if err != nil {
				return err
			}
			if !a.equal(b) {
				out.Differ = append(out.Differ, replayedRow{inspect.Clean(h.identity.String()), account.String() + "/" + h.role.String(), h.name.String(), a, b})
				break
			}
		}
	}
	slices.SortFunc(out.Differ, func(a, b replayedRow) int {
		return cmp.Or(cmp.Compare(a.Identity, b.Identity), cmp.Compare(a.Role, b.Role), cmp.Compare(a.Name, b.Name))
	})
	if gone > 0 {
		out.Notes = append(out.Notes, fmt.Sprintf("%d are of accounts that are no more, and are left out", gone))
	}
	if a, b := before.policy.LongestSession(), after.policy.LongestSession(); a != b {
		out.Notes = append(out.Notes, fmt.Sprintf("for everybody: a proof is needed again after %s, and not after %s", manifest.Duration(b), manifest.Duration(a)))
	}
	return nil
}

// again holds a request that was refused against both terms, as when it is asked again.
func (out *replayed) again(ctx context.Context, was, is *renewals, rec audit.Record, now time.Time) error {
	a, met, err := was.asked(ctx, rec, now)
	if err != nil {
		return err
	}
	b, meets, err := is.asked(ctx, rec, now)
	if err != nil {
		return err
	}
	// What is asked already, it did not meet.
	meets = slices.DeleteFunc(meets, func(c string) bool { return slices.Contains(met, c) })
	if !b.Granted && len(meets) > 0 {
		b.Perhaps = strings.Join(meets, "; or ")
	}
	if a.equal(b) {
		return nil
	}
	account, role := "any", "any"
	if !rec.Asked.IsZero() {
		account = rec.Asked.String()
	}
	if !rec.Role.IsZero() {
		role = rec.Role.String()
	}
	out.Differ = append(out.Differ, replayedRow{inspect.Clean(rec.Identity.String()), account + "/" + role, rec.Name.String(), a, b})
	return nil
}

// asked is what somebody gets who asks again for what rec refused, and what the conditions
// are on groups and claims that stand between.
func (r *renewals) asked(ctx context.Context, rec audit.Record, now time.Time) (replayedAnswer, []string, error) {
	who := authn.Who{Identity: rec.Identity, Provider: rec.Identity.Provider()}
	if id, ok := rec.Identity.KeyID(); ok {
		k, _ := r.proofs.AccessKey(id)
		var told *wire.Error
		var err error
		if who, err = r.methods.Again(ctx, authn.Renewal{Identity: rec.Identity, User: rec.User, By: k.By(), Now: now}); errors.As(err, &told) {
			return replayedAnswer{Code: told.Code}, nil, nil
		} else if err != nil {
			return replayedAnswer{}, nil, err
		}
	} else if !slices.ContainsFunc(r.providers, func(p oidc.Provider) bool { return p.Name == who.Provider }) {
		return replayedAnswer{Code: wire.BadIdentity}, nil, nil
	}
	who.Name = rec.Given // what the proof said, and says again
	w := policy.Wish{Account: rec.Asked, Role: rec.Role, Name: rec.Name, Callout: rec.Door == "callout"}
	var conditions []string
	for _, o := range r.grants.Might(policy.Asker{Who: who}, w) {
		conditions = append(conditions, o.Conditions())
	}
	slices.Sort(conditions)
	g, told := r.grants.Decide(policy.Asker{Who: who}, w, now)
	if told != nil {
		return replayedAnswer{Code: told.Code}, slices.Compact(conditions), nil
	}
	answer := granted(g)
	if rec.Name.IsZero() {
		answer.Name = g.Name.String()
	}
	if rec.Asked.IsZero() || rec.Role.IsZero() {
		answer.As = g.Account.String() + "/" + g.Role.String()
	}
	return answer, slices.Compact(conditions), nil
}

// granted is an answer that grants.
func granted(g policy.Grant) replayedAnswer {
	tags := slices.DeleteFunc(cleaned(g.Tags), func(tag string) bool {
		return strings.HasPrefix(tag, trust.TagMet) || strings.HasPrefix(tag, trust.TagBy) // by which renewals know again what was shown, and nothing else
	})
	slices.Sort(tags)
	return replayedAnswer{Granted: true, Lifetime: int64(g.TTL / time.Second), Tags: tags}
}

// renewals decides about renewals as issuers do that go by some terms.
type renewals struct {
	terms
	methods authn.Methods
	logins  *oidc.Method
	proofs  *ledger.Projection
}

func newRenewals(t terms, proofs *ledger.Projection) *renewals {
	logins := oidc.New(t.providers, oidc.Options{})
	return &renewals{t, authn.Methods{
		authn.Open{},
		logins,
		authn.Invites{Redeemed: proofs.Redeemed},
		authn.AccessKeys{Find: func(id ident.KeyID) (authn.KeyRecord, bool) {
			k, ok := proofs.AccessKey(id)
			k.Networks = nil // where from somebody asked is in no record
			return k, ok
		}},
	}, logins, proofs}
}

func (r *renewals) close() { r.logins.Close() }

// answer is what somebody gets who was issued rec.
func (r *renewals) answer(ctx context.Context, rec audit.Record, w policy.Wish, now time.Time) (replayedAnswer, error) {
	who, err := r.methods.Again(ctx, authn.Renewal{Identity: rec.Identity, User: rec.User, By: rec.By, Now: now})
	var told *wire.Error
	if errors.As(err, &told) {
		return replayedAnswer{Code: told.Code}, nil
	}
	if err != nil {
		return replayedAnswer{}, err
	}
	who.Provider = rec.Identity.Provider()
	// As issuers do: a session is from the proof, and nothing outlives it.
	proven := cmp.Or(rec.Proven, rec.Issued)
	if rec.Expires <= now.Unix() {
		proven = now.Unix() // it has ended, and is asked for anew
	}
	left := r.policy.LongestSession() - now.Sub(time.Unix(proven, 0))
	if left < policy.Shortest {
		return replayedAnswer{Code: wire.Expired}, nil
	}
	g, told := r.grants.Decide(policy.Asker{Who: who, Met: rec.Met}, w, now)
	if told != nil {
		return replayedAnswer{Code: told.Code}, nil
	}
	g.TTL = min(g.TTL, left.Round(time.Second))
	return granted(g), nil
}

func (g *globals) printReplayed(out replayed) error {
	if g.json {
		return cli.JSON(g.Out, out)
	}
	if len(out.Differ) > 0 {
		rows := [][]string{{"IDENTITY", "ROLE", "NAME", "BEFORE", "AFTER"}}
		for _, d := range out.Differ {
			rows = append(rows, []string{d.Identity, d.Role, or(d.Name), inspect.Clean(d.Before.say(d.After)), inspect.Clean(d.After.say(d.Before))})
		}
		if err := cli.Table(g.Out, rows); err != nil {
			return err
		}
	}
	text := fmt.Sprintf("%d of %d answers would differ\n", len(out.Differ), out.Looked)
	for _, n := range out.Notes {
		text += inspect.Clean(n) + "\n"
	}
	return cli.Print(g.Out, "%s", text)
}
