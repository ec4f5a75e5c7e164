package faultstest

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/internal/service"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/subject"
)

// The tutorial's door is not there; it is there in every region once the platform file opens
// it, without a restart, and gone again when that is taken back. Who is told of it is doctor's
// reader.
func TestTutorialDoor(t *testing.T) {
	w := newWorld(t, false)
	file := w.Up.Platform.Dir.File()
	before := must(os.ReadFile(file))
	apply := func(more string) {
		t.Helper()
		if err := os.WriteFile(file, append(bytes.Clone(before), more...), 0o600); err != nil {
			t.Fatal(err)
		}
		w.nscsetup(cli.OK, "apply", "--yes")
	}
	r, _ := w.Public.Document.Region(region("sgp"))
	// ask asks as a program of the tutorial does, but for the inbox, which is the guest's own.
	ask := func(name string) (string, error) {
		t.Helper()
		nc := must(w.Public.DialGuest(t.Context(), r.URLs))
		defer nc.Close()
		m, err := nc.Request(subject.TutorialAccess, []byte(name), 500*time.Millisecond)
		if err != nil {
			return "", err
		}
		return string(m.Data), nil
	}
	closed := func() bool {
		_, err := ask("alice")
		return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrTimeout)
	}
	if !closed() {
		t.Fatal("somebody answers while the door is closed")
	}

	apply("\ntutorial_door: {i_know: " + manifest.TutorialSentence + "}\n")
	var answer string
	eventually(t, within(10*time.Second), "the door is open", func() bool {
		var err error
		answer, err = ask("alice")
		return err == nil
	})
	creds, err := natsconn.ParseCreds([]byte(answer))
	if err != nil {
		t.Fatalf("%s: %v", answer, err)
	}
	nc, err := natsconn.Dial(t.Context(), natsconn.Options{
		URLs: r.URLs, Name: "tutorial", Credential: creds, InboxPrefix: subject.UserInboxPrefix(must(ident.ParseUserKey(creds.Key.Public()))),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	sub := must(nc.SubscribeSync(subject.Posts(must(ident.ParseLabel("KUBECON")))))
	if err := nc.Publish("chat.KUBECON.posts.General", []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := sub.NextMsg(5 * time.Second); err != nil {
		t.Errorf("who came in by that door does not hear the chat: %v", err)
	}
	if again, err := ask("alice"); err != nil || !strings.HasPrefix(again, "-ERR '") {
		t.Errorf("a name was given twice: %q %v", again, err)
	}
	for _, at := range regions() {
		eventually(t, within(10*time.Second), "all are ready", func() bool { return w.service(service.Issuer + "/" + at).Status().Ready })
	}
	if said := w.nscsetup(cli.OK, "doctor", "--json"); !strings.Contains(said, "tutorial-door") {
		t.Errorf("doctor does not warn: %s", said)
	}

	apply("")
	eventually(t, within(10*time.Second), "the door is closed", closed)
	for _, at := range regions() {
		eventually(t, within(10*time.Second), "all are ready", func() bool { return w.service(service.Issuer + "/" + at).Status().Ready })
	}
}
