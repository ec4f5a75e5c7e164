package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/testlog"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/wire"
)

// output is what a process writes, to be read while it does.
type output struct{ testlog.Log }

// accepted are the ids of the requests that an issuer's log has.
func (o *output) accepted() map[string]bool {
	ids := map[string]bool{}
	for _, line := range bytes.Split(o.Bytes(), []byte("\n")) {
		var l struct {
			Message string `json:"msg"`
			Request string `json:"request"`
		}
		if json.Unmarshal(line, &l) == nil && l.Request != "" {
			ids[l.Request] = true
		}
	}
	return ids
}

// answers are what clients got.
type answers struct {
	mu     sync.Mutex
	ids    map[string]bool
	codes  map[string]int // of error answers
	nobody int            // "no responders", at once and from the server
	lost   []error
}

// drain ends an issuer by SIGTERM while requests come as fast as they can. It is
// one of two in its region: whatever it does not take goes to the other one. No
// request is without an answer. A few may be answered by a server: one that is on
// its way from server to server while the issuer's subscription goes comes back as
// "no responders", which says that nobody took it, and clients ask again at once.
func (w *world) drain(t *testing.T) {
	const callers, enough = 8, 25
	folder := filepath.Join(w.running.Dir, "issuers", "ams")
	path, err := exec.LookPath("provisioner")
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr output
	cmd := exec.Command(path, "run", "--json", "--config", filepath.Join(folder, "provisioner.yaml"))
	cmd.Env, cmd.Stdout, cmd.Stderr = w.vars(t.TempDir()), &stdout, &stderr
	p, err := startProcess(cmd)
	if err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	asking, enoughAsked := context.WithCancel(ctx)
	defer enoughAsked()
	got := &answers{ids: map[string]bool{}, codes: map[string]int{}}
	var work sync.WaitGroup
	for range callers {
		name := w.running.Name("drain")
		work.Go(func() { w.ask(asking, ctx, name, got) })
	}
	if !eventually(soon, func() bool { return len(stderr.accepted()) >= enough || p.ended() }) {
		t.Error("the issuer was hardly asked")
	}
	if n, ok := listening(t, cmd.Process.Pid); ok && n != 0 {
		t.Errorf("it listens at %d ports, and was not told to", n)
	}
	code, err := p.stop(syscall.SIGTERM, soon)
	enoughAsked()
	work.Wait()

	if err != nil || code != 0 {
		t.Fatalf("exit code %d, %v: %s", code, err, stderr.String())
	}
	for _, err := range got.lost {
		t.Errorf("a request got no answer: %v", err)
	}
	if len(got.codes) > 0 {
		t.Errorf("requests were refused: %v", got.codes)
	}
	if got.nobody > callers {
		t.Errorf("%d requests met no issuer, although one was there", got.nobody)
	}
	took := stderr.accepted()
	// Now and then a server says "no responders" for a request that it passed on
	// all the same; it then lets no second answer through. Who asked has been
	// told at once to ask again, so the issuer owes it nothing.
	var unanswered []string
	for id := range took {
		if !got.ids[id] {
			unanswered = append(unanswered, id)
		}
	}
	if len(unanswered) > got.nobody {
		t.Errorf("requests %v were accepted and not answered; %d were told that nobody is there", unanswered, got.nobody)
	}
	if len(took) < enough || len(took) >= len(got.ids) {
		t.Errorf("the issuer took %d of %d requests; the other one is to take the rest", len(took), len(got.ids))
	}
	if seed.Match(stdout.Bytes()) || seed.Match(stderr.Bytes()) {
		t.Error("a seed was logged")
	}
}

// ask asks for one name's credential again and again, each time once.
func (w *world) ask(asking, ctx context.Context, name ident.Name, got *answers) {
	lost := func(err error) {
		got.mu.Lock()
		defer got.mu.Unlock()
		got.lost = append(got.lost, err)
	}
	key, err := keystore.Generate(keystore.User)
	if err != nil {
		lost(err)
		return
	}
	nc, err := w.running.Public.DialGuest(ctx, []string{w.url("ams")})
	if err != nil {
		lost(err)
		return
	}
	defer nc.Close()
	for asking.Err() == nil {
		m, err := w.request(name, key)
		if err != nil {
			lost(err)
			return
		}
		rctx, cancel := context.WithTimeout(ctx, soon)
		answer, err := nc.RequestMsgWithContext(rctx, m)
		cancel()
		if errors.Is(err, nats.ErrNoResponders) {
			got.mu.Lock()
			got.nobody++
			got.mu.Unlock()
			continue
		}
		if err != nil {
			lost(err)
			return
		}
		got.mu.Lock()
		got.ids[answer.Header.Get(wire.HeaderRequestID)] = true
		if c := answer.Header.Get(wire.HeaderErrorCode); c != "" {
			got.codes[c]++
		}
		got.mu.Unlock()
	}
}

func (w *world) request(name ident.Name, key *keystore.Key) (*nats.Msg, error) {
	user, err := ident.ParseUserKey(key.Public())
	if err != nil {
		return nil, err
	}
	nonce, err := wire.NewNonce(rand.Reader)
	if err != nil {
		return nil, err
	}
	body, err := wire.Request{
		UserKey: user, Time: time.Now(), Nonce: nonce, Name: name, Identity: wire.Proof{Type: wire.ProofOpen},
	}.Encode()
	if err != nil {
		return nil, err
	}
	proof, err := wire.Prove(key, body)
	if err != nil {
		return nil, errors.Join(err)
	}
	m := nats.NewMsg(subject.Issue)
	m.Data = body
	m.Header.Set(wire.HeaderProof, proof)
	return m, nil
}
