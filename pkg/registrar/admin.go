package registrar

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/internal/endpoint"
	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// Admin answers administrators on auth.v1.admin.*: it denies and resumes identities, users and
// accounts, has that brought to all servers, and says with its signature which of them hold it.
// Every region's registrars answer, also when the region is cut off.
type Admin struct {
	Region ident.Region
	Self   ident.UserKey // this registrar
	// Administrators and Role are the account and the role that may ask.
	Administrators, Role ident.Label
	// Untouchable are accounts that cannot be suspended: without them nobody could resume any.
	Untouchable []ident.Label
	Document    func() *ledger.Document
	Ledger      *ledger.Projection
	Holdings    *ledger.Holdings
	Denials     *Denials
	Revoker     *Revoker
	// Confirm says how servers stand to accounts; see Watcher.Confirm.
	Confirm func(ctx context.Context, accounts []ident.AccountKey, expected []string, patience bool) (Report, error)
	// Unread has the records of all regions read that are there now, and waits for that until ctx
	// ends. It gives the regions of which it was not done, with the moment up to which they were
	// read; zero: not since the start.
	Unread func(context.Context) map[string]time.Time
	// Open is how many connections of an identity by auth callout are to be closed still.
	Open    func(ident.Identity) int
	Signing *keystore.Key // the operator signing key
	// Rotations says how role keys of an account stand that are being replaced, and SealRotations
	// how a region's key does, or the callout key, where it is none.
	Rotations     func(context.Context, ident.Label) []Turning
	SealRotations func(context.Context, ident.Region) []Resealing
	Door          ident.Label // the account whose servers seal to the callout key
	// Refused records what nobody was granted.
	Refused func(audit.Record)
	Log     *slog.Logger
	Now     func() time.Time

	disbelieved atomic.Uint64
}

// Disbelieved is how many requests were refused because what says who asks is not believed.
func (a *Admin) Disbelieved() uint64 { return a.disbelieved.Load() }

// listed bounds the users that a receipt names.
const listed = 1000

// confirmWait bounds how long servers are waited for where nobody wants to wait for those that
// are away. It is more than Servers takes to find that some are.
const confirmWait = 8 * time.Second

const (
	// recordsWait bounds how long records are waited for in the same way: it takes milliseconds, but
	// for a region that is away.
	recordsWait = 2 * time.Second
	// recordsLooks is how often all is looked at where records of a region could not be read in
	// time whose servers are there.
	recordsLooks = 3
	// adminBound bounds an answer, beside what its asker has servers waited for. The asker waits a
	// little longer (adminWait of pkg/client).
	adminBound = 9 * time.Second
	// anotherLook is what has to be left of that for another look.
	anotherLook = 4 * time.Second
)

// Endpoint answers all of it.
func (a *Admin) Endpoint() endpoint.Endpoint {
	return endpoint.Endpoint{Name: "admin", Subject: subject.AdminAll, Handler: a.answer}
}

// order is an administrator's request that was believed.
type order struct {
	id    string
	verb  string
	asker trust.User
	wire.AdminRequest
}

// by is who asks, for people to read.
func (o order) by() string {
	by := o.asker.Name.String()
	if !o.asker.Identity.IsZero() {
		by += ", " + o.asker.Identity.String()
	}
	return by
}

func (a *Admin) answer(ctx context.Context, r endpoint.Request) endpoint.Response {
	o, err := a.believe(r)
	var out wire.AdminAnswer
	if err == nil {
		// It waits for servers most of the time.
		defer endpoint.Waiting(ctx)()
		out, err = a.do(ctx, o)
	}
	if err != nil {
		return a.refuse(r, o, err)
	}
	out.RequestID = r.ID
	body, err := json.Marshal(out)
	if err != nil {
		return a.refuse(r, o, err)
	}
	return endpoint.Response{Body: body}
}

// believe says who asks for what. The subject on which it came is the last word on what: it is
// what the server allowed.
func (a *Admin) believe(r endpoint.Request) (order, error) {
	o := order{id: r.ID, verb: strings.TrimPrefix(r.Subject, strings.TrimSuffix(subject.AdminAll, "*"))}
	doc := a.Document()
	if doc == nil {
		return o, errors.New("no platform document is known yet")
	}
	now := a.Now()
	info, err := wire.DecodeRequestInfo(r.Header[wire.HeaderInfo])
	if err == nil {
		o.asker, err = doc.Public.Caller(info, r.Reply, now, a.Administrators)
	}
	if err == nil && o.asker.Role != a.Role {
		err = fmt.Errorf("role %s may not ask this: %w", o.asker.Role, trust.ErrUntrusted)
	}
	if err != nil {
		a.disbelieved.Add(1)
		a.Log.Warn("a caller that is not believed", "request", r.ID, "error", err)
		return o, wire.Errorf(wire.BadIdentity, "administrators alone may ask this", "who asks is not shown")
	}
	// A server may not have heard of it yet.
	if a.Ledger.RevokedBefore(o.asker.AccountKey, o.asker.Key) >= o.asker.IssuedAt.Unix() {
		return o, wire.Errorf(wire.Revoked, "ask another administrator", "this credential is revoked")
	}
	_, denied := a.Ledger.Denied(o.asker.Identity, o.asker.AccountKey, o.asker.Key)
	if denied || a.Ledger.Gone(o.asker.Identity) {
		return o, wire.Errorf(wire.Suspended, "ask another administrator", "you are suspended")
	}
	req, werr := wire.DecodeAdminRequest(r.Body)
	if werr != nil {
		return o, werr
	}
	o.AdminRequest = req
	return o, nil
}

func (a *Admin) do(ctx context.Context, o order) (wire.AdminAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(o.Wait)*time.Second+adminBound)
	defer cancel()
	// By it credentials may seem to have ended that have not: a receipt would say too much.
	if err := a.Denials.Clock.Err(); err != nil {
		return wire.AdminAnswer{}, err
	}
	if o.verb == wire.VerbRotations {
		return a.rotations(ctx, o)
	}
	if !o.Region.IsZero() {
		return wire.AdminAnswer{}, wire.Errorf(wire.BadRequest, "see docs/protocol.md", "of a region there is nothing to ask but %s", wire.VerbRotations)
	}
	keys, err := a.keys(ctx, o)
	if err != nil {
		return wire.AdminAnswer{}, err
	}
	var out wire.AdminAnswer
	switch o.verb {
	case wire.VerbShow:
		out.Standing = a.standing(keys)
		return out, nil
	case wire.VerbReceipt:
	case wire.VerbRevoke, wire.VerbSuspend:
		err = a.deny(ctx, o, keys)
	case wire.VerbResume:
		err = a.resume(ctx, o, keys)
	default:
		return out, wire.Errorf(wire.BadRequest, "see docs/protocol.md", "administrators cannot ask for %.32q", o.verb)
	}
	if errors.Is(err, ledger.ErrUnavailable) {
		out.Unstored, err = true, nil
	}
	if err != nil {
		return out, err
	}
	out.Standing = a.standing(keys)
	out.Receipt, err = a.receipt(ctx, o, keys)
	return out, err
}

// rotations are those of an account.
func (a *Admin) rotations(ctx context.Context, o order) (wire.AdminAnswer, error) {
	var out wire.AdminAnswer
	ctx, cancel := context.WithTimeout(ctx, confirmWait)
	defer cancel()
	if !o.Region.IsZero() || o.Account == a.Door {
		for _, t := range a.SealRotations(ctx, o.Region) {
			r := wire.Rotation{Stage: string(t.Stage), From: t.From.String(), To: t.To.String(), Waiting: t.Waiting}
			out.Rotations = append(out.Rotations, r)
		}
		return out, nil
	}
	if _, err := a.account(o.Account); err != nil {
		return out, err
	}
	for _, t := range a.Rotations(ctx, o.Account) {
		r := wire.Rotation{Role: t.Role, Stage: string(t.Stage), From: t.From.String(), To: t.To.String(), Waiting: t.Waiting}
		if !t.Until.IsZero() {
			r.Until = t.Until.Unix()
		}
		out.Rotations = append(out.Rotations, r)
	}
	return out, nil
}

// nameWait is how long a name that this region does not know is waited for: it may have been
// taken a moment ago in another one, and whoever is to be denied would be there for as long as
// the administrator believes that nobody holds it.
const nameWait = 3 * time.Second

// holder is who holds a name, or for orders that take nothing away, who held it last.
func (a *Admin) holder(ctx context.Context, o order) (ident.Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, nameWait)
	defer cancel()
	denies := o.verb == wire.VerbRevoke || o.verb == wire.VerbSuspend || o.verb == wire.VerbReceipt
	for {
		if held, gone, ok := a.Ledger.Name(o.Name); ok && (!gone || !denies) {
			return held.Holder, nil
		}
		if wait.For(ctx, 20*time.Millisecond) != nil {
			return ident.Identity{}, wire.Errorf(wire.BadName, "see 'nscsetup name list'", "nobody holds the name %s", o.Name)
		}
	}
}

// keys are those of the suspensions that a request is about.
func (a *Admin) keys(ctx context.Context, o order) ([]ledger.Key, error) {
	now := a.Now()
	switch {
	case !o.Identity.IsZero():
		return []ledger.Key{ledger.IdentitySuspension(o.Identity)}, nil
	case !o.Name.IsZero():
		id, err := a.holder(ctx, o)
		if err != nil {
			return nil, err
		}
		return []ledger.Key{ledger.IdentitySuspension(id)}, nil
	case !o.User.IsZero():
		return a.userKeys(o, now)
	default:
		account, err := a.account(o.Account)
		if err != nil {
			return nil, err
		}
		if slices.Contains(a.Untouchable, o.Account) && (o.verb == wire.VerbSuspend || o.verb == wire.VerbRevoke) {
			return nil, wire.Errorf(wire.BadRequest, "suspend identities or users of it", "the platform does not work without account %s", o.Account)
		}
		if o.verb == wire.VerbRevoke {
			return nil, wire.Errorf(wire.BadRequest, "suspend it, or take it out of platform.yaml", "an account is not revoked")
		}
		return []ledger.Key{ledger.AccountSuspension(account)}, nil
	}
}

func (a *Admin) account(name ident.Label) (ident.AccountKey, error) {
	acc, ok := a.Document().Public.Account(name)
	if !ok {
		return ident.AccountKey{}, wire.Errorf(wire.BadRequest, "see 'nscsetup list accounts'", "there is no account %s", name)
	}
	return acc.Key, nil
}

// userKeys are the keys of one nkey: of the account that was named, or of each in which it has
// a credential or was denied.
func (a *Admin) userKeys(o order, now time.Time) ([]ledger.Key, error) {
	holders := a.Holdings.ByUser(o.User, now)
	for _, h := range holders {
		if h.Server != "" && (o.verb == wire.VerbRevoke || o.verb == wire.VerbSuspend) {
			return nil, wire.Errorf(wire.BadRequest, "deny its identity, "+h.Identity.String(), "this nkey is that of one connection by auth callout: who is behind it would be back with another")
		}
	}
	if !o.Account.IsZero() {
		account, err := a.account(o.Account)
		if err != nil {
			return nil, err
		}
		// Services and guests have credentials that the platform cannot give again by itself.
		if a.spared(account) && (o.verb == wire.VerbSuspend || o.verb == wire.VerbRevoke) {
			return nil, wire.Errorf(wire.BadRequest, "give the service another credential, and take the old one's role key out of force", "users of account %s are Herald's own services, or its guest", o.Account)
		}
		return []ledger.Key{ledger.UserSuspension(account, o.User)}, nil
	}
	in := map[ident.AccountKey]bool{}
	for _, h := range holders {
		if !a.spared(h.Account) {
			in[h.Account] = true
		}
	}
	for _, acc := range a.Document().Public.Accounts {
		if _, ok := a.Ledger.Get(ledger.UserSuspension(acc.Key, o.User)); ok {
			in[acc.Key] = true
		}
	}
	var keys []ledger.Key
	for account := range in {
		keys = append(keys, ledger.UserSuspension(account, o.User))
	}
	if len(keys) == 0 {
		return nil, wire.Errorf(wire.BadRequest, "say of which account it is; no issuer gave it a credential that lives", "nothing is known of %s", o.User)
	}
	slices.SortFunc(keys, func(x, y ledger.Key) int { return strings.Compare(x.String(), y.String()) })
	return keys, nil
}

// deny states it, and ends the credentials. What fails of it is tried again by the Revoker.
func (a *Admin) deny(ctx context.Context, o order, keys []ledger.Key) error {
	for _, k := range keys {
		if id := k.Identity(); id == o.asker.Identity && !id.IsZero() || k.User() == o.asker.Key {
			return wire.Errorf(wire.BadRequest, "let another administrator do it", "nobody denies themselves")
		}
	}
	var failed error
	for _, k := range keys {
		s := ledger.Suspension{By: o.by(), Why: o.Why, Revoked: o.verb == wire.VerbRevoke}
		// All of it is in force, and servers are told, before anything waits to be stored.
		if err := a.Denials.SuspendAtOnce(k, true, 0, s); err != nil {
			return err
		}
		_, rerr := a.Revoker.Revoke(ctx, k, o.by(), o.Why)
		if rerr != nil && !errors.Is(rerr, ledger.ErrUnavailable) {
			return rerr
		}
		_, err := a.Denials.Suspend(ctx, k, true, 0, s)
		if err != nil && !errors.Is(err, ledger.ErrUnavailable) {
			return err
		}
		failed = errors.Join(failed, err, rerr)
	}
	a.Log.Info("denied", "request", o.id, "verb", o.verb, "keys", texts(keys), "by", o.by(), "why", o.Why)
	return failed
}

// resume ends it, for who was seen to be denied and was not denied again since.
func (a *Admin) resume(ctx context.Context, o order, keys []ledger.Key) error {
	for _, k := range keys {
		if _, ok := o.Seen[k.String()]; !ok {
			return wire.Errorf(wire.BadRequest, "ask auth.v1.admin.show first, and say what version it had", "it is not said what was seen of %s", k)
		}
	}
	var failed error
	for _, k := range keys {
		_, err := a.Denials.Suspend(ctx, k, false, o.Seen[k.String()], ledger.Suspension{By: o.by(), Why: o.Why})
		if errors.Is(err, ledger.ErrOld) {
			return wire.Errorf(wire.NameTaken, "look at it again, and resume what you see then", "%s changed since it was looked at", k)
		}
		if err != nil && !errors.Is(err, ledger.ErrUnavailable) {
			return err
		}
		failed = errors.Join(failed, err)
	}
	a.Log.Info("resumed", "request", o.id, "keys", texts(keys), "by", o.by(), "why", o.Why)
	return failed
}

// spared tells whether an account is one in which nobody is revoked: Untouchable, but for
// administrators, who are people.
func (a *Admin) spared(account ident.AccountKey) bool {
	return Spared(a.Document(), account, a.Untouchable, a.Administrators)
}

// Spared tells whether an account is one of those that cannot be suspended, but for the one of
// administrators.
func Spared(doc *ledger.Document, account ident.AccountKey, untouchable []ident.Label, administrators ident.Label) bool {
	if doc == nil {
		return true
	}
	for _, name := range untouchable {
		if acc, ok := doc.Public.Account(name); ok && acc.Key == account {
			return name != administrators
		}
	}
	return false
}

func texts(keys []ledger.Key) []string {
	out := make([]string, len(keys))
	for i, k := range keys {
		out[i] = k.String()
	}
	return out
}

func (a *Admin) standing(keys []ledger.Key) []wire.Denial {
	out := make([]wire.Denial, len(keys))
	for i, k := range keys {
		out[i] = wire.Denial{Key: k.String(), State: wire.StateFree, Users: len(a.Revoker.Targets(k))}
		e, ok := a.Ledger.Get(k)
		s, is := e.Body.(ledger.Suspension)
		if !ok || !is {
			continue
		}
		out[i].Version, out[i].At, out[i].By, out[i].Why = e.Version, e.At.Unix(), s.By, s.Why
		switch {
		case e.Denies && s.Revoked:
			out[i].State = wire.StateRevoked
		case e.Denies:
			out[i].State = wire.StateSuspended
		}
	}
	return out
}

// receipt says which servers hold what was asked for, or what holds of it.
func (a *Admin) receipt(ctx context.Context, o order, keys []ledger.Key) (string, error) {
	r := trust.Receipt{
		ID: o.id, Registrar: a.Self.String(), Region: a.Region.String(), Verb: o.verb, Of: texts(keys), By: o.by(), Why: o.Why, AdminUser: o.asker.Key.String(),
		Users: []trust.Revoked{}, Behind: []trust.Lagging{},
	}
	if o.verb == wire.VerbResume {
		// It concerns no server: what was revoked stays so.
		r.At = a.Now()
		return r.Sign(a.Signing)
	}
	patience := max(time.Duration(o.Wait)*time.Second/2, recordsWait)
	for look := 1; ; look++ {
		is := r // with nothing in its lists
		late := a.standings(ctx, o, keys, patience, &is)
		end, _ := ctx.Deadline()
		if !late || look == recordsLooks || time.Until(end) < anotherLook {
			is.At = a.Now()
			return is.Sign(a.Signing)
		}
		patience = recordsWait
	}
}

// standings adds to a receipt who is denied, and which servers hold it. late: records of a region
// could not be read within patience, though its servers are there.
func (a *Admin) standings(ctx context.Context, o order, keys []ledger.Key, patience time.Duration, r *trust.Receipt) (late bool) {
	// What an issuer gave a moment before it heard of the denial may be in the records only.
	rctx, cancel := context.WithTimeout(ctx, patience)
	unread := a.Unread(rctx)
	cancel()
	for _, k := range keys {
		if _, err := a.Revoker.Revoke(ctx, k, "", ""); err != nil && !errors.Is(err, ledger.ErrUnavailable) {
			r.Behind = append(r.Behind, trust.Lagging{Server: "*", Why: "not all credentials could be revoked: " + err.Error()})
		}
	}
	accounts := map[ident.AccountKey]bool{}
	for _, k := range keys {
		e, ok := a.Ledger.Get(k)
		if !ok || !e.Denies {
			r.Behind = append(r.Behind, trust.Lagging{Server: "*", Why: "it is not denied"})
			continue
		}
		for _, t := range a.Revoker.Targets(k) {
			key, user := ledger.RevocationKey(t.Account, t.User), t.User.String()
			if t.User.IsZero() {
				key, user = ledger.EverybodyKey(t.Account), jwt.All
			}
			e, ok := a.Ledger.Get(key)
			rev, is := e.Body.(ledger.Revocation)
			if !ok || !is || rev.Before < t.issued {
				r.Behind = append(r.Behind, trust.Lagging{Server: "*", Why: "credentials of " + user + " are not revoked yet"})
				continue
			}
			accounts[t.Account] = true
			if len(r.Users) < listed {
				r.Users = append(r.Users, trust.Revoked{Account: t.Account.String(), User: user, Before: rev.Before})
			} else {
				r.More++
			}
		}
	}
	ctx, cancel = context.WithTimeout(ctx, max(time.Duration(o.Wait)*time.Second, confirmWait))
	defer cancel()
	expected := a.Document().ServerNames()
	rep, err := a.Confirm(ctx, slices.Collect(maps.Keys(accounts)), expected, o.Wait > 0)
	r.Servers, r.Denied = a.count(rep, expected)
	if len(expected) == 0 {
		r.Behind = append(r.Behind, trust.Lagging{Server: "*", Why: "the platform document does not name the servers; run 'nscsetup apply'"})
	}
	for _, region := range slices.Sorted(maps.Keys(unread)) {
		// The servers of a region that is away are behind as it is.
		there := slices.ContainsFunc(rep.Servers, func(s Server) bool { return s.Cluster == region })
		switch at := unread[region]; {
		case at.IsZero():
			r.Behind = append(r.Behind, trust.Lagging{Server: "*", Why: "records of region " + region + " were not read yet: who has a credential there is not known"})
		case there:
			late = true
			r.Behind = append(r.Behind, trust.Lagging{Server: "*", Why: "records of region " + region + " cannot be read now: who was given a credential there since " + at.UTC().Format(time.RFC3339) + " is not known"})
		}
	}
	if len(r.Behind) > 0 || err != nil || len(rep.Accounts) < len(accounts) {
		r.Denied = 0 // nobody knows of any server that it holds all
	}
	if err == nil && len(rep.Accounts) < len(accounts) {
		r.Behind = append(r.Behind, trust.Lagging{Server: "*", Why: "an account is not known to this registrar yet"})
	}
	if err != nil {
		r.Behind = append(r.Behind, trust.Lagging{Server: "*", Why: "they could not be asked: " + err.Error()})
	}
	for _, b := range rep.Behind {
		r.Behind = append(r.Behind, trust.Lagging{Server: b.Server, Why: b.Why})
	}
	for _, s := range rep.Accounts {
		if s.Err != nil {
			r.Behind = append(r.Behind, trust.Lagging{Server: "*", Why: s.Err.Error()})
		}
	}
	for _, k := range keys {
		if id := k.Identity(); !id.IsZero() {
			r.Open += a.Open(id)
		}
	}
	return late
}

// count is how many servers there should be, and how many of them hold all accounts.
func (a *Admin) count(rep Report, expected []string) (all, hold int) {
	all = max(len(rep.Servers), len(expected))
	hold = all
	for _, s := range rep.Accounts {
		all = max(all, s.Servers)
	}
	for _, s := range rep.Accounts {
		hold = min(hold, s.InLine)
		if s.Err != nil {
			hold = 0
		}
	}
	if len(rep.Accounts) == 0 {
		hold = len(rep.Servers) // there is nothing that a server would have to know
	}
	return all, hold
}

func (a *Admin) refuse(r endpoint.Request, o order, err error) endpoint.Response {
	told := *adminRefusal(err)
	told.RequestID = r.ID
	a.Log.Warn("refused", "request", r.ID, "verb", o.verb, "by", o.by(), "code", string(told.Code), "error", err)
	if a.Refused != nil {
		a.Refused(audit.Record{
			What: audit.Refuse, At: a.Now().UnixMilli(), Door: "admin", Request: r.ID, Identity: o.asker.Identity, User: o.asker.Key, Refused: told.Code,
			Why: audit.Reason(strings.ToValidUTF8(fmt.Sprintf("%.32q: %s", o.verb, told.Message), "?")),
		})
	}
	body, err := json.Marshal(&told)
	if err != nil {
		body = nil // the headers say what matters
	}
	return endpoint.Response{Body: body, Err: &told}
}

func adminRefusal(err error) *wire.Error {
	var werr *wire.Error
	if errors.As(err, &werr) {
		return werr
	}
	if errors.Is(err, ErrClock) {
		return wire.Errorf(wire.Unavailable, "set that machine's clock; meanwhile another region's registrar can be asked", "the registrar that was asked does nothing: %s", err)
	}
	e := wire.Errorf(wire.Unavailable, "ask again in a moment", "it cannot be done now; what was done of it is in force")
	e.RetryAfterMS = 1000
	return e
}
