package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/wire"
)

// play is the demo without a terminal. Each scene fails if what it claims does
// not hold.
func play(ctx context.Context, s *stage) error {
	pl, err := client.LoadPlatform(filepath.Join(s.platform, "public"))
	if err != nil {
		return err
	}
	p := &script{stage: s, pl: pl, people: map[string]map[string]any{}}
	for _, scene := range []struct {
		title string
		play  func(context.Context) error
	}{
		{"Credentials from the nearest issuer", p.credentials},
		{"A post and a direct message across regions", p.messages},
		{"Nobody reads another's messages", p.snoop},
		{"A forged message is not shown", p.forgedMessage},
		{"A forged request gets no credential", p.forgedRequest},
		{"One name, asked for in two regions at the same moment", p.race},
		{"A forged and an expired credential are refused", p.badCredentials},
		{"The issuer of " + near + " is killed", p.failover},
	} {
		say("\n%s", scene.title)
		if err := scene.play(ctx); err != nil {
			return fmt.Errorf("%s: %w", strings.ToLower(scene.title[:1])+scene.title[1:], err)
		}
	}
	say("\nAll of it held.")
	return nil
}

type script struct {
	*stage
	pl     *client.Platform
	people map[string]map[string]any // by name: what whoami said
}

func (p *script) chat(name, region string, args ...string) []string {
	return append(args, "--json", "--platform", filepath.Join(p.platform, "public"), "--name", name, "--region", region)
}

func (p *script) whoami(ctx context.Context, name, region string) (map[string]any, error) {
	lines, code, stderr, err := p.run(ctx, nil, "chat", p.chat(name, region, "whoami")...)
	if err != nil {
		return nil, err
	}
	if code != 0 || len(lines) != 1 {
		return nil, fmt.Errorf("%s in %s got no credential: exit %d: %s", name, region, code, stderr)
	}
	say("  %-6s in %s: issuer %.9s… in %v answered in %v ms", name, region, lines[0]["issuer"], lines[0]["issuer_region"], lines[0]["took_ms"])
	return lines[0], nil
}

func (p *script) credentials(ctx context.Context) error {
	for _, who := range []struct{ name, region string }{{"alice", near}, {"bob", far}, {"carol", west}} {
		w, err := p.whoami(ctx, who.name, who.region)
		if err != nil {
			return err
		}
		if w["issuer_region"] != who.region || w["region"] != who.region {
			return fmt.Errorf("%s in %s was answered from %v and connected to %v", who.name, who.region, w["issuer_region"], w["region"])
		}
		p.people[who.name] = w
	}
	return nil
}

func (p *script) messages(context.Context) error {
	bob, err := p.start("tail-bob", nil, "chat", p.chat("bob", far, "tail")...)
	if err != nil {
		return err
	}
	carol, err := p.start("tail-carol", nil, "chat", p.chat("carol", west, "tail")...)
	if err != nil {
		return err
	}
	for _, t := range []*proc{bob, carol} {
		if _, err := t.wait(20*time.Second, "ready line", event("ready")); err != nil {
			return err
		}
	}
	const post, dm = "hello from Amsterdam", "only for you"
	for _, m := range [][2]string{{"@bob", dm}, {"#General", post}} {
		if _, code, stderr, err := p.run(context.Background(), nil, "chat", p.chat("alice", near, "send", m[0], m[1])...); err != nil || code != 0 {
			return fmt.Errorf("alice sends to %s: exit %d: %s%w", m[0], code, stderr, orNil(err))
		}
	}
	got, err := bob.wait(10*time.Second, "direct message", message(dm))
	if err != nil {
		return err
	}
	if err := believed(got, "alice", "dm"); err != nil {
		return err
	}
	say("  direct: alice (%s) → bob (%s) %q in %v ms, verified", near, far, dm, got["latency_ms"])
	for name, t := range map[string]*proc{"bob": bob, "carol": carol} {
		var leaked bool
		got, err := t.wait(10*time.Second, "post", func(v map[string]any) bool {
			leaked = leaked || (name == "carol" && v["text"] == dm)
			return v["event"] == "message" && v["text"] == post
		})
		if err != nil {
			return err
		}
		if leaked {
			return errors.New("carol was shown what alice wrote to bob")
		}
		if err := believed(got, "alice", "post"); err != nil {
			return err
		}
		say("  #General: alice (%s) → %s %q in %v ms, verified", near, name, post, got["latency_ms"])
	}
	return errors.Join(bob.end(syscall.SIGTERM, 5*time.Second), carol.end(syscall.SIGTERM, 5*time.Second))
}

func message(text string) func(map[string]any) bool {
	return func(v map[string]any) bool { return v["event"] == "message" && v["text"] == text }
}

func believed(v map[string]any, from, kind string) error {
	if v["from"] != from || v["verified"] != true || v["kind"] != kind {
		return fmt.Errorf("%v arrived as %v from %v, verified: %v (%v)", v["text"], v["kind"], v["from"], v["verified"], v["doubt"])
	}
	return nil
}

func (p *script) snoop(ctx context.Context) error {
	alice, _ := p.people["alice"]["key"].(string)
	lines, code, stderr, err := p.run(ctx, nil, "chat", p.chat("bob", far, "snoop", alice)...)
	if err != nil {
		return err
	}
	if code != 0 || len(lines) != 2 {
		return fmt.Errorf("bob may read what is alice's: exit %d: %s", code, stderr)
	}
	for _, l := range lines {
		say("  bob on %.28s…: %v", l["subject"], shorten(fmt.Sprint(l["error"])))
	}
	return nil
}

func shorten(s string) string {
	if i := strings.Index(s, " to \""); i > 0 {
		return s[:i]
	}
	return s
}

// session connects the demo itself, as a person who does not play fair.
func (p *script) session(ctx context.Context, name, region string) (*client.Session, *keystore.Key, error) {
	key, err := keystore.Generate(keystore.User)
	if err != nil {
		return nil, nil, err
	}
	n, err := ident.ParseName(name)
	if err != nil {
		return nil, nil, err
	}
	r, err := ident.ParseRegion(region)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	s, err := client.Connect(ctx, client.Config{Platform: p.pl, Key: key, Region: r, Wish: client.Wish{Name: n}})
	return s, key, err
}

// forgedMessage puts a post in alice's name on the wire, signed by somebody
// else; then a real one behind it, so that one knows when to stop waiting.
func (p *script) forgedMessage(ctx context.Context) error {
	bob, err := p.start("tail-bob-2", nil, "chat", p.chat("bob", far, "tail")...)
	if err != nil {
		return err
	}
	if _, err := bob.wait(20*time.Second, "ready line", event("ready")); err != nil {
		return err
	}
	mallory, key, err := p.session(ctx, "mallory", near)
	if err != nil {
		return err
	}
	defer mallory.Close(ctx)
	alice, _ := p.people["alice"]["key"].(string)
	room := p.pl.Document.Chat.Rooms[0]
	subj := subject.Post(room.Name, room.Channels[0])
	claims := jwt.NewGenericClaims(room.Channels[0].String())
	claims.Name, claims.Audience = "alice", subj
	claims.Data["msg"], claims.Data["type"] = "send me your money", "chat-post"
	token, err := claims.Encode(key.Pair())
	if err != nil {
		return fmt.Errorf("forging: %w", err)
	}
	forged, err := reissue(token, alice, key)
	if err != nil {
		return err
	}
	if err := mallory.Conn.Publish(subj, []byte(forged)); err != nil {
		return fmt.Errorf("publishing the forged post: %w", err)
	}
	if err := mallory.Conn.Flush(); err != nil {
		return fmt.Errorf("publishing the forged post: %w", err)
	}
	const marker = "did you see anything?"
	if _, code, stderr, err := p.run(ctx, nil, "chat", p.chat("alice", near, "send", "#General", marker)...); err != nil || code != 0 {
		return fmt.Errorf("alice sends: exit %d: %s%w", code, stderr, orNil(err))
	}
	shown := ""
	if _, err := bob.wait(10*time.Second, "post", func(v map[string]any) bool {
		if v["text"] == "send me your money" {
			shown = fmt.Sprint(v["from"])
		}
		return message(marker)(v)
	}); err != nil {
		return err
	}
	if shown != "" {
		return fmt.Errorf("bob was shown the forged post as from %s", shown)
	}
	say("  mallory signs a post in alice's name: dropped, bob saw only what alice wrote")
	return bob.end(syscall.SIGTERM, 5*time.Second)
}

// forgedRequest asks for alice's credential without alice's key.
func (p *script) forgedRequest(ctx context.Context) error {
	guest, err := p.guest(near)
	if err != nil {
		return err
	}
	defer guest.Close()
	alice, err := ident.ParseUserKey(fmt.Sprint(p.people["alice"]["key"]))
	if err != nil {
		return err
	}
	mallory, err := keystore.Generate(keystore.User)
	if err != nil {
		return err
	}
	name, err := ident.ParseName("alice")
	if err != nil {
		return err
	}
	body, err := wire.Request{
		UserKey: alice, Time: time.Now(), Nonce: "AAAAAAAAAAAAAAAAAAAAAA", Name: name, Identity: wire.Proof{Type: wire.ProofOpen},
	}.Encode()
	if err != nil {
		return err
	}
	m := nats.NewMsg(subject.Issue)
	m.Data = body
	proof, err := wire.Prove(mallory, body)
	if err != nil {
		return err
	}
	m.Header.Set(wire.HeaderProof, proof)
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	answer, err := guest.RequestMsgWithContext(ctx, m)
	if err != nil {
		return fmt.Errorf("asking: %w", err)
	}
	if answer.Header.Get(wire.HeaderErrorCode) != "401" {
		return fmt.Errorf("the issuer answered a request that alice did not sign: %.80s", answer.Data)
	}
	say("  mallory asks for alice's credential: %s", answer.Header.Get(wire.HeaderError))
	return nil
}

func (p *script) guest(region string) (*nats.Conn, error) {
	r, err := ident.ParseRegion(region)
	if err != nil {
		return nil, err
	}
	reg, _ := p.pl.Document.Region(r)
	return p.pl.DialGuest(context.Background(), reg.URLs)
}

// race has pairs of strangers ask for one name each, in two regions. The
// moments are swept against each other, so that whatever the links add, some
// pairs reach the registrar together.
func (p *script) race(ctx context.Context) error {
	const pairs = 48
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
		won  = make([]int, pairs)
		lost = make([]int, pairs)
	)
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	// The clock starts when all have connected: on a busy machine that takes a while, and
	// who was late would meet nobody.
	var (
		connected sync.WaitGroup
		begin     time.Time
		start     = make(chan struct{})
	)
	connected.Add(2 * pairs)
	for side, region := range []string{near, west} {
		r, err := ident.ParseRegion(region)
		if err != nil {
			return err
		}
		reg, _ := p.pl.Document.Region(r)
		for i := range pairs {
			name, err := ident.ParseName(fmt.Sprintf("twin-%d", i))
			if err != nil {
				return err
			}
			var late time.Duration
			if side == 1 {
				late = time.Duration(i-pairs/2) * 500 * time.Microsecond
			}
			wg.Go(func() {
				err := p.claim(ctx, reg.URLs, name, func() time.Time {
					connected.Done()
					<-start
					return begin.Add(late)
				})
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					won[i]++
				case errors.Is(err, &wire.Error{Code: wire.NameTaken}):
					lost[i]++
				default:
					errs = append(errs, fmt.Errorf("%s in %s: %w", name, region, err))
				}
			})
		}
	}
	connected.Wait()
	begin = time.Now().Add(50 * time.Millisecond)
	close(start)
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for i := range pairs {
		if won[i] != 1 || lost[i] != 1 {
			return fmt.Errorf("twin-%d was given to %d of two strangers", i, won[i])
		}
	}
	say("  %d pairs of strangers in %s and %s: each time one got the name and the other name_taken", pairs, near, west)
	return nil
}

// claim connects, and asks for a name at the moment that at gives, which it calls once,
// whether it is connected or not.
func (p *script) claim(ctx context.Context, urls []string, name ident.Name, at func() time.Time) error {
	key, err := keystore.Generate(keystore.User)
	if err != nil {
		at()
		return err
	}
	nc, err := p.pl.DialGuest(ctx, urls)
	when := at()
	if err != nil {
		return err
	}
	defer nc.Close()
	t := time.NewTimer(time.Until(when))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	_, err = p.pl.Issue(ctx, nc, key, client.Wish{Name: name})
	return err
}

func (p *script) badCredentials(ctx context.Context) error {
	// Forged: a user JWT that names the chat's account and is signed by a key
	// that the account does not know.
	account, _ := p.pl.Document.Account(p.pl.Document.Chat.Account)
	user, err := keystore.Generate(keystore.User)
	if err != nil {
		return err
	}
	signer, err := keystore.Generate(keystore.Account)
	if err != nil {
		return err
	}
	c := jwt.NewUserClaims(user.Public())
	c.Name, c.IssuerAccount = "mallory", account.Key.String()
	c.SetScoped(true)
	token, err := c.Encode(signer.Pair())
	if err != nil {
		return fmt.Errorf("forging: %w", err)
	}
	if err := p.refused(ctx, "forged", token, user); err != nil {
		return err
	}
	// Expired: a real one, of one second.
	guest, err := p.guest(near)
	if err != nil {
		return err
	}
	defer guest.Close()
	name, err := ident.ParseName("frank")
	if err != nil {
		return err
	}
	cred, err := p.pl.Issue(ctx, guest, user, client.Wish{Name: name, TTL: time.Second})
	if err != nil {
		return err
	}
	t := time.NewTimer(time.Until(cred.Expires.Add(100 * time.Millisecond)))
	defer t.Stop()
	<-t.C
	return p.expired(cred.JWT, user)
}

// expired connects past every check of our own: the server takes the greeting
// of an expired user and closes with its reason.
func (p *script) expired(token string, key *keystore.Key) error {
	r, err := ident.ParseRegion(near)
	if err != nil {
		return err
	}
	reg, _ := p.pl.Document.Region(r)
	refused := make(chan error, 16)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	nc, err := natsconn.Dial(ctx, natsconn.Options{
		URLs: reg.URLs[:1], Name: "frank", Credential: natsconn.Static{Token: token, Key: key},
		OnError: func(_ *nats.Subscription, err error) {
			select {
			case refused <- err:
			default:
			}
		},
	})
	if err == nil {
		defer nc.Close()
		select {
		case err = <-refused:
		case <-ctx.Done():
			return errors.New("a server took a credential that is expired")
		}
	}
	if !errors.Is(err, nats.ErrAuthExpired) && !errors.Is(err, nats.ErrAuthorization) {
		return fmt.Errorf("connecting with an expired credential: %w", err)
	}
	say("  expired: the server answers %q", err)
	return nil
}

// refused connects with a credential straight to a server: it is the server
// that must refuse it.
func (p *script) refused(ctx context.Context, what, token string, key *keystore.Key) error {
	seed, err := key.Seed()
	if err != nil {
		return err
	}
	creds, err := jwt.FormatUserConfig(token, seed)
	if err != nil {
		return fmt.Errorf("writing creds: %w", err)
	}
	path := filepath.Join(p.dir, what+".creds")
	if err := os.WriteFile(path, creds, 0o600); err != nil {
		return fmt.Errorf("writing creds: %w", err)
	}
	r, err := ident.ParseRegion(near)
	if err != nil {
		return err
	}
	reg, _ := p.pl.Document.Region(r)
	_, code, stderr, err := p.run(ctx, nil, "chat", "whoami", "--json", "--creds", path, "--server", reg.URLs[0])
	if err != nil {
		return err
	}
	if code != 6 {
		return fmt.Errorf("a server took a credential that is %s: exit %d: %s", what, code, stderr)
	}
	line, _, _ := strings.Cut(stderr, "\n")
	say("  %s: %s", what, strings.TrimPrefix(line, "error: "+path+": "))
	return nil
}

func (p *script) failover(ctx context.Context) error {
	for _, pr := range p.procs {
		if pr.name == "provisioner-"+near {
			if err := pr.end(syscall.SIGKILL, 5*time.Second); err != nil {
				return err
			}
		}
	}
	w, err := p.whoami(ctx, "dave", near)
	if err != nil {
		return err
	}
	if w["region"] != near || w["issuer_region"] == near {
		return fmt.Errorf("dave in %s was answered from %v, connected to %v", near, w["issuer_region"], w["region"])
	}
	say("  dave talks in %s, on a credential from %v", near, w["issuer_region"])
	return nil
}

// reissue replaces the issuer in a message's claims and signs them again with a
// key that is not that issuer's.
func reissue(token, issuer string, key *keystore.Key) (string, error) {
	parts := strings.Split(token, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", fmt.Errorf("forging: %w", err)
	}
	payload = bytes.ReplaceAll(payload, []byte(key.Public()), []byte(issuer))
	signed := parts[0] + "." + base64.RawURLEncoding.EncodeToString(payload)
	sig, err := key.Sign([]byte(signed))
	if err != nil {
		return "", err
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(sig), nil
}
