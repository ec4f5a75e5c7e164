package ledger_test

import (
	"strings"
	"testing"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/ledgertest"
	"github.com/herald-nats/herald/pkg/trust"
)

func TestRevoke(t *testing.T) {
	p := newPlatform(t)
	account, user := p.Account(t, "CHAT"), ledgertest.User(t)
	key := ledger.RevocationKey(account, user)
	revoke := func(k ledger.Key, cur *ledger.Entry, before time.Time, why string) (*ledger.Entry, error) {
		return ledger.Revoke(p.Opener(), p.Signer(0), k, cur, before, ledger.Revocation{By: "ops", Why: why}, p.Now())
	}
	e, err := revoke(key, nil, now(), "lost")
	if err != nil || e == nil || !e.Denies || e.Version != uint64(now().Unix()) ||
		e.Body != (ledger.Revocation{Before: now().Unix(), By: "ops", Why: "lost"}) {
		t.Fatalf("%+v %v", e, err)
	}
	for _, before := range []time.Time{now(), now().Add(-day), now().Add(time.Second - 1)} {
		if again, err := revoke(key, e, before, "again"); again != nil || err != nil {
			t.Errorf("what is revoked already: %+v %v", again, err)
		}
	}
	later, err := revoke(key, e, now().Add(time.Minute), "again")
	if err != nil || later == nil || !later.Beats(*e) {
		t.Errorf("a later moment: %+v %v", later, err)
	}
	_, err = revoke(key, nil, now().Add(ledger.MaxAhead+time.Second), "")
	want(t, "credentials of the future", err, ledger.ErrAhead)
	_, err = revoke(key, nil, time.Unix(0, 0), "")
	want(t, "no moment at all", err, ledger.ErrDamaged)
	_, err = revoke(key, nil, now(), strings.Repeat("x", 513))
	want(t, "a novel", err, ledger.ErrDamaged)
	_, err = revoke(ledger.UserSuspension(account, user), nil, now(), "")
	want(t, "a key of another kind", err, ledger.ErrDamaged)
}

// Whoever stole a signing key for a moment cannot revoke what is issued for years to
// come, whatever date is on the entry.
func TestRevocationOfTheFuture(t *testing.T) {
	p := newPlatform(t)
	key := ledger.RevocationKey(p.Account(t, "CHAT"), ledgertest.User(t))
	open := func(before uint64) error {
		token := p.Token(t, p.Signing[0], trust.Entry{Subject: key.String(), Version: before, Denies: true, At: 1}, nil)
		_, err := p.Opener().Open(key.String(), token)
		return err
	}
	horizon := uint64(now().Add(ledger.MaxAhead).Unix())
	want(t, "to the limit", open(horizon), nil)
	for _, before := range []uint64{horizon + 1, 1 << 40, 1<<40 + 1, 1 << 63, 1<<64 - 1} {
		want(t, "beyond it", open(before), ledger.ErrAhead)
	}
}

func TestSuspend(t *testing.T) {
	p := newPlatform(t)
	key := ledger.IdentitySuspension(open(t))
	do := func(cur *ledger.Entry, suspend bool, seen uint64) (*ledger.Entry, error) {
		return ledger.Suspend(p.Opener(), p.Signer(1), key, cur, suspend, seen, ledger.Suspension{By: "ops"}, p.Now())
	}
	// same is that nothing is to be stated.
	same := func(what string, e *ledger.Entry, err error) {
		t.Helper()
		if e != nil || err != nil {
			t.Errorf("%s: %+v %v", what, e, err)
		}
	}
	e, err := do(nil, false, 0)
	same("resuming who was never suspended", e, err)
	_, err = do(nil, false, 3)
	want(t, "resuming upon what the ledger does not have", err, ledger.ErrOld)
	s1, err := do(nil, true, 0)
	if err != nil || !s1.Denies || s1.Version != 1 || s1.Body != (ledger.Suspension{By: "ops"}) {
		t.Fatalf("%+v %v", s1, err)
	}
	e, err = do(s1, true, 1)
	same("suspending again", e, err)
	r2, err := do(s1, false, 1)
	if err != nil || r2.Denies || r2.Version != 2 || !r2.Beats(*s1) {
		t.Fatalf("%+v %v", r2, err)
	}
	e, err = do(r2, false, 2)
	same("resuming again", e, err)
	s3, err := do(r2, true, 0)
	if err != nil || !s3.Denies || s3.Version != 3 {
		t.Fatalf("suspending needs not to have seen anything: %+v %v", s3, err)
	}
	// A request to resume that was sent for the first suspension, come again.
	_, err = do(s3, false, 1)
	want(t, "a replayed resume", err, ledger.ErrOld)
	_, err = do(r2, false, 1)
	want(t, "a replayed resume of who is not suspended", err, ledger.ErrOld)
	if r2.Beats(*s3) {
		t.Error("an older resume ends a newer suspension")
	}
	_, err = ledger.Suspend(p.Opener(), p.Signer(0), ledger.NameKey(name(t, "alice")), nil, true, 0, ledger.Suspension{}, p.Now())
	want(t, "a key of another kind", err, ledger.ErrDamaged)
	_, err = ledger.Suspend(p.Opener(), p.Signer(0), key, nil, true, 0, ledger.Suspension{Why: strings.Repeat("x", 513)}, p.Now())
	want(t, "a novel", err, ledger.ErrDamaged)
}

// What one region suspends and another resumes upon the same counter is suspended.
func TestSuspensionWinsATie(t *testing.T) {
	p := newPlatform(t)
	key := ledger.AccountSuspension(p.Account(t, "CHAT"))
	resume := p.Entry(t, key, 2, false, now().Add(time.Hour), nil)
	suspend := p.Entry(t, key, 2, true, now(), nil)
	if !suspend.Beats(resume) || resume.Beats(suspend) {
		t.Error("the later resume won")
	}
}

func TestDenied(t *testing.T) {
	p := newPlatform(t)
	a, other, u, ou := p.Account(t, "CHAT"), p.Account(t, "OTHER"), ledgertest.User(t), ledgertest.User(t)
	id, oid := ident.OpenIdentity(u), ident.OpenIdentity(ou)
	proj := ledger.NewProjection(nil)
	denied := func(id ident.Identity, a ident.AccountKey, u ident.UserKey) bool {
		_, d := proj.Denied(id, a, u)
		return d
	}
	if denied(id, a, u) {
		t.Error("an empty ledger denies")
	}
	for _, k := range []ledger.Key{ledger.IdentitySuspension(id), ledger.UserSuspension(a, u), ledger.AccountSuspension(a)} {
		s := p.Entry(t, k, 1, true, now(), nil)
		proj.Apply(s)
		if e, d := proj.Denied(id, a, u); !d || e.Token != s.Token {
			t.Errorf("%s denies nothing", k)
		}
		if k != ledger.AccountSuspension(a) && denied(oid, a, ou) || denied(oid, other, u) {
			t.Errorf("%s denies others", k)
		}
		proj.Apply(p.Entry(t, k, 2, false, now(), nil))
		if denied(id, a, u) {
			t.Errorf("%s denies after it was ended", k)
		}
	}
	proj.Apply(p.Entry(t, ledger.RevocationKey(a, u), 77, true, now(), nil))
	if got := proj.RevokedBefore(a, u); got != 77 || denied(id, a, u) {
		t.Errorf("revoked before %d", got)
	}
	if proj.RevokedBefore(a, ou) != 0 || proj.RevokedBefore(other, u) != 0 {
		t.Error("others are revoked")
	}
}
