// Package authntest holds every authn.Method to what a platform rests on. A new method
// passes Run with a Case of its own, beside the tests of what is particular to it.
package authntest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/herald-nats/herald/pkg/authn"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/wire"
)

// Case is a method, and evidence for it.
type Case struct {
	Method authn.Method
	// Good are pieces of evidence that hold, each of another identity; at least one. Each is
	// asked about many times, as a request that is repeated with the same nonce.
	Good []authn.Evidence
	// Bad are pieces of evidence that do not hold, by what is wrong with them, each with
	// the code that the caller is told.
	Bad map[string]Bad
	// SignsBody tells that a proof is over the body: with another body it is refused.
	SignsBody bool
	// Secrets are what no error may hold, besides the codes and tokens of Good and Bad.
	Secrets []string
	// Stuck is a method whose outside never answers, with evidence for which it has to be
	// asked; nil where nothing outside is asked. Ask says how long it may then take.
	Stuck func(t *testing.T) (authn.Method, authn.Evidence)
}

// Bad is evidence that does not hold.
type Bad struct {
	Evidence authn.Evidence
	Code     wire.Code
}

// bound is how long a request to an issuer may take in all.
const bound = 4 * time.Second

// Run runs the suite; each part asks newCase for a case of its own.
func Run(t *testing.T, newCase func(t *testing.T) Case) {
	t.Helper()
	for _, part := range []struct {
		name string
		run  func(*testing.T, Case)
	}{
		{"type", testType},
		{"good", testGood},
		{"bad", testBad},
		{"other types", testOtherTypes},
		{"no evidence", testNoEvidence},
		{"parts are missing", testMissing},
		{"another body", testBody},
		{"renewal", testRenewal},
		{"at once", testAtOnce},
		{"context", testContext},
	} {
		t.Run(part.name, func(t *testing.T) { part.run(t, newCase(t)) })
	}
}

func testType(t *testing.T, c Case) {
	typ := c.Method.Type()
	if typ == "" || len(typ) > 20 || strings.ToLower(typ) != typ {
		t.Errorf("the type %q", typ)
	}
	if len(c.Good) == 0 {
		t.Fatal("the case has no good evidence")
	}
	for i, e := range c.Good {
		if e.Request.Identity.Type != typ {
			t.Errorf("good evidence %d is of type %q", i, e.Request.Identity.Type)
		}
		if _, err := c.Method.Identify(t.Context(), e); err != nil {
			t.Errorf("good evidence %d: %v", i, err)
		}
	}
	if again := c.Method.Type(); again != typ {
		t.Errorf("the type was %q and is %q", typ, again)
	}
}

func testGood(t *testing.T, c Case) {
	seen := make(map[ident.Identity]int)
	for i, e := range c.Good {
		who, err := c.Method.Identify(t.Context(), e)
		if err != nil {
			t.Errorf("good evidence %d: %v", i, err)
			continue
		}
		if who.Identity.IsZero() {
			t.Errorf("good evidence %d is of nobody", i)
		}
		if first, twice := seen[who.Identity]; twice {
			t.Errorf("good evidence %d and %d are both of %s", first, i, who.Identity)
		}
		seen[who.Identity] = i
		if back, err := ident.ParseIdentity(who.Identity.String()); err != nil || back != who.Identity {
			t.Errorf("the identity %s reads as %s, %v", who.Identity, back, err)
		}
		if !who.Until.IsZero() && !who.Until.After(e.Now) {
			t.Errorf("good evidence %d has ended", i)
		}
		again, err := c.Method.Identify(t.Context(), e)
		if err != nil || !reflect.DeepEqual(again, who) {
			t.Errorf("good evidence %d: first %+v, then %+v, %v", i, who, again, err)
		}
	}
}

func testBad(t *testing.T, c Case) {
	for name, b := range c.Bad {
		err := refused(t, c, name, b.Evidence)
		if told := (*wire.Error)(nil); errors.As(err, &told) && told.Code != b.Code {
			t.Errorf("%s: %s, want %s: %v", name, told.Code, b.Code, err)
		}
	}
}

func testOtherTypes(t *testing.T, c Case) {
	own := c.Method.Type()
	for _, typ := range []string{wire.ProofOpen, wire.ProofInvite, wire.ProofKey, wire.ProofOIDC, "", strings.ToUpper(own), own + " ", own + "x"} {
		if typ == own {
			continue
		}
		e := c.Good[0]
		e.Request.Identity.Type = typ
		err := refused(t, c, fmt.Sprintf("the type %q", typ), e)
		if err != nil && !errors.Is(err, &wire.Error{Code: wire.BadIdentity}) {
			t.Errorf("the type %q: %v", typ, err)
		}
	}
}

func testNoEvidence(t *testing.T, c Case) {
	_ = refused(t, c, "no evidence", authn.Evidence{})
	e := authn.Evidence{Now: c.Good[0].Now}
	e.Request.Identity.Type = c.Method.Type()
	if _, err := c.Method.Identify(t.Context(), e); err != nil {
		_ = refused(t, c, "a type and nothing else", e)
	}
}

// testMissing takes parts of good evidence away: what is left may be enough, as for a
// method that needs no proof, but never makes it panic or name somebody else.
func testMissing(t *testing.T, c Case) {
	for i, good := range c.Good {
		want, err := c.Method.Identify(t.Context(), good)
		if err != nil {
			t.Fatalf("good evidence %d: %v", i, err)
		}
		for name, cut := range map[string]func(*authn.Evidence){
			"proof":   func(e *authn.Evidence) { e.Request.Identity = wire.Proof{Type: c.Method.Type()} },
			"token":   func(e *authn.Evidence) { e.Request.Identity.Token = "" },
			"code":    func(e *authn.Evidence) { e.Request.Identity.Code = "" },
			"key id":  func(e *authn.Evidence) { e.Request.Identity.KeyID = ident.KeyID{} },
			"headers": func(e *authn.Evidence) { e.Proofs = nil },
			"headers' values": func(e *authn.Evidence) {
				e.Proofs = make([]string, len(e.Proofs))
			},
			"headers that are there twice": func(e *authn.Evidence) { e.Proofs = append(slices.Clone(e.Proofs), e.Proofs...) },
			"body":                         func(e *authn.Evidence) { e.Body = nil },
			"time":                         func(e *authn.Evidence) { e.Now = time.Time{} },
		} {
			e := good
			cut(&e)
			if who, err := c.Method.Identify(t.Context(), e); err != nil {
				_ = refused(t, c, "without "+name, e)
			} else if who.Identity != want.Identity {
				t.Errorf("without %s it is %s", name, who.Identity)
			}
		}
	}
}

func testBody(t *testing.T, c Case) {
	if !c.SignsBody {
		return
	}
	for i, good := range c.Good {
		if len(good.Body) == 0 {
			t.Fatalf("good evidence %d has no body", i)
		}
		other := good
		other.Body = slices.Clone(good.Body)
		other.Body[len(other.Body)/2] ^= 1
		longer := good
		longer.Body = append(slices.Clone(good.Body), '\n')
		for name, e := range map[string]authn.Evidence{"one bit of the body": other, "a longer body": longer} {
			if err := refused(t, c, name, e); err != nil && !errors.Is(err, &wire.Error{Code: wire.BadIdentity}) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// testRenewal: whoever was shown to ask is the same one when asking again.
func testRenewal(t *testing.T, c Case) {
	r, ok := c.Method.(authn.Renewer)
	if !ok {
		return
	}
	for i, e := range c.Good {
		first, err := r.Identify(t.Context(), e)
		if err != nil {
			t.Fatalf("good evidence %d: %v", i, err)
		}
		if first.Identity.Kind() != r.Kind() {
			t.Errorf("%s is not of the kind %q", first.Identity, r.Kind())
		}
		again, err := r.Again(t.Context(), authn.Renewal{Identity: first.Identity, User: e.Request.UserKey, Host: e.Host, By: first.By, Now: e.Now})
		if err != nil {
			t.Errorf("%s asks again: %v", first.Identity, err)
		} else if again.Identity != first.Identity || again.Provider != first.Provider {
			t.Errorf("%s of %q asks again, and is %s of %q", first.Identity, first.Provider, again.Identity, again.Provider)
		} else if again.By != first.By {
			t.Errorf("%s was proved by %q, and asks again by %q", first.Identity, first.By, again.By)
		}
		if len(first.By) > 16 || strings.Trim(first.By, "abcdefghijklmnopqrstuvwxyz234567") != "" {
			t.Errorf("%s was proved by %q, which is no tag", first.Identity, first.By)
		}
		// What was proved by something that is not in place any more is not renewed.
		if first.By == "" {
			continue
		}
		if _, err := r.Again(t.Context(), authn.Renewal{Identity: first.Identity, User: e.Request.UserKey, Host: e.Host, By: "another", Now: e.Now}); err == nil {
			t.Errorf("%s asks again by something else, and gets it", first.Identity)
		}
	}
}

// testAtOnce asks about all evidence from many sides. With -race it finds what is shared.
func testAtOnce(t *testing.T, c Case) {
	want := make([]ident.Identity, len(c.Good))
	for i, e := range c.Good {
		who, err := c.Method.Identify(t.Context(), e)
		if err != nil {
			t.Fatalf("good evidence %d: %v", i, err)
		}
		want[i] = who.Identity
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				for i, e := range c.Good {
					who, err := c.Method.Identify(t.Context(), e)
					if err != nil || who.Identity != want[i] {
						t.Errorf("good evidence %d: %s, %v, want %s", i, who.Identity, err, want[i])
					}
					// What a caller does with the answer is its own.
					for name, values := range who.Claims {
						values[0] = "overwritten"
						delete(who.Claims, name)
					}
					for j := range who.Groups {
						who.Groups[j] = "overwritten"
					}
				}
				for name, b := range c.Bad {
					if who, err := c.Method.Identify(t.Context(), b.Evidence); err == nil {
						t.Errorf("%s is taken for %s", name, who.Identity)
					}
				}
			}
		})
	}
	wg.Wait()
}

func testContext(t *testing.T, c Case) {
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	within(t, "with a context that has ended", func() {
		// What is known can be told all the same.
		if _, err := c.Method.Identify(gone, c.Good[0]); err != nil {
			c.judge(t, "a context that has ended", err)
		}
	})
	if c.Stuck == nil {
		return
	}
	m, e := c.Stuck(t)
	for name, ask := range map[string]func() (context.Context, context.CancelFunc){
		"with a context that has ended": func() (context.Context, context.CancelFunc) { return gone, func() {} },
		"with a context that ends soon": func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(t.Context(), 50*time.Millisecond)
		},
		"with a context that does not end": func() (context.Context, context.CancelFunc) { return t.Context(), func() {} },
	} {
		within(t, name, func() {
			ctx, cancel := ask()
			defer cancel()
			_, err := m.Identify(ctx, e)
			told := (*wire.Error)(nil)
			if !errors.As(err, &told) || told.Code != wire.Unavailable || told.RetryAfterMS <= 0 {
				t.Errorf("%s and nobody who answers: %v, want %s with a time to ask again", name, err, wire.Unavailable)
				return
			}
			c.judge(t, name, err)
		})
	}
}

func within(t *testing.T, what string, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if took := time.Since(start); took >= bound {
		t.Errorf("%s it takes %s", what, took)
	}
}

// refused asks about evidence that does not hold, and gives the error; nil if it was taken.
func refused(t *testing.T, c Case, what string, e authn.Evidence) error {
	t.Helper()
	who, err := c.Method.Identify(t.Context(), e)
	if err == nil {
		t.Errorf("%s is taken for %s", what, who.Identity)
		return nil
	}
	if !reflect.DeepEqual(who, authn.Who{}) {
		t.Errorf("%s: refused, and yet it is %+v", what, who)
	}
	c.judge(t, what, err)
	return err
}

// judge holds an error to what callers and logs need of it.
func (c Case) judge(t *testing.T, what string, err error) {
	t.Helper()
	var told *wire.Error
	if !errors.As(err, &told) {
		t.Errorf("%s: the error wraps no *wire.Error: %v", what, err)
		return
	}
	if told.Code.Number() == 0 || told.Message == "" || told.Hint == "" || len(told.Message) > 400 || len(told.Hint) > 400 {
		t.Errorf("%s: not a code, a sentence and a hint: %+v", what, told)
	}
	if strings.ContainsAny(told.Message+told.Hint, "\r\n") {
		t.Errorf("%s: more than one line: %+v", what, told)
	}
	if told.Code == wire.Unavailable && told.RetryAfterMS <= 0 {
		t.Errorf("%s: unavailable, and no time to ask again", what)
	}
	for _, text := range []string{err.Error(), told.Message, told.Hint} {
		for _, s := range c.secrets() {
			if strings.Contains(text, s) {
				t.Errorf("%s: the error holds a secret of %d characters", what, len(s))
			}
		}
	}
}

// secrets are what no error may hold. Of a token it is each part: any of them is enough to
// find it in a log.
func (c Case) secrets() []string {
	all := slices.Clone(c.Secrets)
	evidence := slices.Clone(c.Good)
	for _, b := range c.Bad {
		evidence = append(evidence, b.Evidence)
	}
	for _, e := range evidence {
		all = append(all, e.Request.Identity.Code)
		all = append(all, strings.Split(e.Request.Identity.Token, ".")...)
		all = append(all, e.Proofs...)
	}
	// What is shorter is in any sentence.
	return slices.DeleteFunc(all, func(s string) bool { return len(s) < 8 })
}
