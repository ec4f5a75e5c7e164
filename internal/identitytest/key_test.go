package identitytest

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/invite"
	"github.com/herald-nats/herald/pkg/wire"
)

func refusedAs(t *testing.T, what string, err error, code wire.Code) {
	t.Helper()
	if !errors.Is(err, &wire.Error{Code: code}) {
		t.Errorf("%s: %v, and not %s", what, err, code)
	}
}

// TestAccessKey: a program gets what its key is for from any region, in one request, and
// nothing once the key is rotated, disabled or removed.
func TestAccessKey(t *testing.T) {
	mail := shared.Name("mail")
	id := accessKey(t, "--grant", "ORDERS/service", "--name", mail.String(), "--network", "127.0.0.0/8")
	key := newKey(t)
	for _, at := range []string{"sgp", "ams", "sfo"} {
		nc := guest(t, region(at))
		// A region may not have heard of the key yet.
		c, err := issue(t, nc, key, client.Wish{Identity: id}, wire.BadIdentity)
		if err != nil {
			t.Fatalf("%s: %v", at, err)
		}
		u := c.User
		if u.Account != label("ORDERS") || u.Role != label("service") || u.Name != mail || u.Identity != ident.KeyIdentity(id.ID) || c.Region != region(at) {
			t.Errorf("%s: %+v of %s", at, u, c.Region)
		}
		if left := time.Until(c.Expires); left > 10*time.Minute || left < 9*time.Minute {
			t.Errorf("%s: it lives for %s", at, left)
		}
	}
	nc := guest(t, region("ams"))
	_, err := issue(t, nc, key, client.Wish{Identity: id, Role: label("reader")}, "")
	refusedAs(t, "a role that the key is not for", err, wire.RoleNotGranted)
	_, err = issue(t, nc, key, client.Wish{Identity: id, Account: label("CHAT")}, "")
	refusedAs(t, "an account that the key is not for", err, wire.RoleNotGranted)
	_, err = issue(t, nc, key, client.Wish{Identity: id, Name: name("other")}, "")
	refusedAs(t, "another name", err, wire.BadName)

	if out := setup(t, "access-key", "describe", id.ID.String()); !strings.Contains(out, "for "+mail.String()) {
		t.Errorf("it was used, and described as\n%s", out)
	}
	file := filepath.Join(t.TempDir(), "rotated")
	setup(t, "access-key", "rotate", id.ID.String(), "--out", file)
	rotated := readKey(t, file)
	if _, err := issue(t, nc, key, client.Wish{Identity: rotated}, wire.BadIdentity); err != nil {
		t.Fatalf("the new secret: %v", err)
	}
	_, err = issue(t, nc, key, client.Wish{Identity: id}, "")
	refusedAs(t, "the old secret", err, wire.BadIdentity)

	setup(t, "access-key", "disable", id.ID.String())
	settles(t, "a disabled key", wire.Suspended, func() error {
		_, err := issue(t, nc, key, client.Wish{Identity: rotated}, "")
		return err
	})
	setup(t, "access-key", "enable", id.ID.String())
	if _, err := issue(t, nc, key, client.Wish{Identity: rotated}, wire.Suspended); err != nil {
		t.Errorf("enabled: %v", err)
	}
	setup(t, "access-key", "remove", id.ID.String())
	settles(t, "a removed key", wire.BadIdentity, func() error {
		_, err := issue(t, nc, key, client.Wish{Identity: rotated}, "")
		return err
	})
}

// settles waits until something is refused as it should be.
func settles(t *testing.T, what string, code wire.Code, ask func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		err := ask()
		if errors.Is(err, &wire.Error{Code: code}) {
			return
		}
		if wait.For(ctx, 20*time.Millisecond) != nil {
			t.Fatalf("%s: %v, and not %s", what, err, code)
		}
	}
}

// TestAccessKeyElsewhere: a key is of use only where it may be used.
func TestAccessKeyElsewhere(t *testing.T) {
	id := accessKey(t, "--grant", "ORDERS/service", "--network", "192.0.2.0/24")
	nc := guest(t, region("ams"))
	var werr *wire.Error
	settles(t, "a key of another network", wire.BadIdentity, func() error {
		_, err := issue(t, nc, newKey(t), client.Wish{Identity: id, Name: name("mail")}, "")
		// Until this region knows the key it says so in other words.
		if errors.As(err, &werr) && werr.Message != "this access key may not be used from where you are" {
			return nil
		}
		return err
	})
}

// TestRenewal: a credential by an access key is renewed in its account, without the key,
// for as long as the key is good.
func TestRenewal(t *testing.T) {
	id := accessKey(t, "--grant", "ORDERS/service", "--name", shared.Name("renewed").String())
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	creds := make(chan client.Credential, 100)
	nc := guest(t, region("sfo"))
	key := newKey(t)
	if _, err := issue(t, nc, key, client.Wish{Identity: id}, wire.BadIdentity); err != nil {
		t.Fatal(err)
	}
	s, err := client.Connect(ctx, client.Config{
		Platform: shared.Public, Key: key, Region: region("sfo"), Wish: client.Wish{Identity: id, TTL: 6 * time.Second},
		OnCredential: func(c client.Credential) { creds <- c },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(ctx)
	renewed(t, ctx, creds)
}

// renewed waits until a credential is followed by one of the same proof. On a busy machine a
// client may come too late for one, and then it shows again who it is.
func renewed(t *testing.T, ctx context.Context, creds <-chan client.Credential) (first, next client.Credential) {
	t.Helper()
	first = <-creds
	for range 5 {
		select {
		case next = <-creds:
		case <-ctx.Done():
			t.Fatal("it is not renewed")
		}
		if next.User.Identity != first.User.Identity || next.JWT == first.JWT {
			t.Errorf("renewed from %+v to %+v", first.User, next.User)
		}
		if next.User.Proven.Equal(first.User.Proven) {
			return first, next
		}
		t.Logf("proved again: %s", log.about(first.User.Key.String()))
		first = next
	}
	t.Error("it was proved again each time")
	return first, next
}

// TestInviteRace: however many come at the same moment, in however many regions, an
// invitation is used as often as it may be; and who was let in comes again.
func TestInviteRace(t *testing.T) {
	const uses, guests = 5, 24
	file := filepath.Join(t.TempDir(), "code")
	setup(t, "invite", "create", "CHAT/member", "--uses", "5", "--out", file)
	code := must(invite.Parse(string(must(keyFile(file)))))
	type came struct {
		at  string
		err error
	}
	keys := make([]func() came, guests)
	for i := range keys {
		at := []string{"ams", "sfo", "sgp"}[i%3]
		nc, key := guest(t, region(at)), newKey(t)
		wish := client.Wish{Identity: client.Invited{Code: code}, Name: shared.Name("invited")}
		keys[i] = func() came {
			_, err := issue(t, nc, key, wish, wire.RateLimited)
			return came{at, err}
		}
	}
	round := func() (in []int) {
		results := make([]came, guests)
		done := make(chan int)
		for i := range keys {
			go func() { results[i] = keys[i](); done <- i }()
		}
		for range keys {
			<-done
		}
		for i, r := range results {
			if r.err == nil {
				in = append(in, i)
			} else if !errors.Is(r.err, &wire.Error{Code: wire.BadIdentity}) {
				t.Errorf("%s: %v", r.at, r.err)
			}
		}
		return in
	}
	first := round()
	if len(first) != uses {
		t.Fatalf("%d came with an invitation for %d", len(first), uses)
	}
	again := round()
	if len(again) != uses {
		t.Errorf("then %d came", len(again))
	}
	for i := range again {
		if again[i] != first[i] {
			t.Errorf("%v came, and then %v", first, again)
			break
		}
	}
}
