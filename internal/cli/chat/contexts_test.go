package chat

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/trust"
)

// made is a platform and what its clients are given, in any version.
type made struct {
	*platform.Platform
	root, signing *keystore.Key
}

func makePlatform(t *testing.T) made {
	t.Helper()
	name, err1 := ident.ParseName("demo")
	ams, err2 := ident.ParseRegion("ams")
	p, err3 := platform.Init(t.Context(), filepath.Join(t.TempDir(), "demo"), platform.Spec{
		Name: name, Regions: []ident.Region{ams}, Home: ams, Nodes: 3, Port: 14000,
	}, time.Now())
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	root, err1 := keystore.Load(filepath.Join(p.Dir.Operator(), "operator.nk"), keystore.Operator)
	signing, err2 := keystore.Load(filepath.Join(p.Dir.Operator(), "signing", "nscsetup.nk"), keystore.Operator)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return made{p, root, signing}
}

func (m made) version(t *testing.T, epoch, number uint32) *client.Platform {
	t.Helper()
	p, err := client.LoadPlatform(m.Dir.Public())
	if err != nil {
		t.Fatal(err)
	}
	d := *m.Document
	d.Version = trust.Version{Epoch: epoch, Number: number}
	proof, err1 := trust.SignEpoch(m.root, epoch, ident.Region{}, time.Now())
	d.EpochProof = proof
	token, err2 := d.Sign(m.signing, time.Now())
	q, err3 := p.Update(token)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	return q
}

// TestContextsRemember: the newest platform document that was seen is where the next
// start begins, whatever is joined or shown in between.
func TestContextsRemember(t *testing.T) {
	m, other := makePlatform(t), makePlatform(t)
	d := dirs{config: t.TempDir(), data: t.TempDir()}
	name, err := ident.ParseName("demo")
	if err != nil {
		t.Fatal(err)
	}
	holds := func(what string, epoch, number uint32) {
		t.Helper()
		p, called, err := d.load("", "")
		if err != nil || called != name || p.Operator.Key() != m.Operator.Key() || p.Document.Version != (trust.Version{Epoch: epoch, Number: number}) {
			t.Errorf("%s: context %s: %+v, %v", what, called, p, err)
		}
	}
	first := m.version(t, 1, 1)
	if err := d.save(name, first); err != nil {
		t.Fatal(err)
	}
	holds("joined", 1, 1)
	for _, step := range []struct {
		what          string
		do            func(ident.Name, *client.Platform) error
		p             *client.Platform
		epoch, number uint32 // that hold afterwards
	}{
		{"a newer one was seen", d.renew, m.version(t, 1, 5), 1, 5},
		{"an older one was seen", d.renew, m.version(t, 1, 4), 1, 5},
		{"the same was seen", d.renew, m.version(t, 1, 5), 1, 5},
		{"the old file is joined again", d.save, first, 1, 5},
		{"another epoch was seen", d.renew, m.version(t, 2, 1), 2, 1},
		{"a higher number of the epoch before was seen", d.renew, m.version(t, 1, 99), 2, 1},
		{"a newer file is joined", d.save, m.version(t, 2, 3), 2, 3},
		{"another platform's was seen", d.renew, other.version(t, 9, 9), 2, 3},
	} {
		if err := step.do(name, step.p); err != nil {
			t.Errorf("%s: %v", step.what, err)
		}
		holds(step.what, step.epoch, step.number)
	}
	if err := d.save(name, other.version(t, 9, 9)); err == nil {
		t.Error("another platform takes the place of a context")
	}
	holds("another platform was joined under its name", 2, 3)

	// A path is the user's own: nothing is remembered for it.
	if _, called, err := d.load(m.Dir.Public(), ""); err != nil || !called.IsZero() {
		t.Errorf("a path is called %s, %v", called, err)
	}
	if err := os.Remove(d.context(name)); err != nil {
		t.Fatal(err)
	}
	if err := d.renew(name, m.version(t, 3, 1)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a context that was removed comes back: %v", err)
	}
}
