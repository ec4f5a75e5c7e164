package rightstest

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/herald-nats/herald/internal/service"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/memory"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
	"github.com/herald-nats/herald/pkg/wire"
)

// TestStolenRegistrar: what a thief of the folder of a region's registrar can do, with the operator
// signing key that is in it, and what that key does not help with. SECURITY.md says the same. What
// the credentials of the folder may do without the key, TestStolenCredentials and TestForbidden show.
func TestStolenRegistrar(t *testing.T) {
	const in = "sfo"
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second)
	defer cancel()
	key := load(t, filepath.Join(dir().Registrar(region(in)), platform.SigningFile), keystore.Operator)
	signer := ledger.KeySigner{Key: key}
	reg := enter(t, registrarOf(t, in), in)
	victim, name := member(t, "sgp", "victim")
	_, theirs := member(t, "ams", "theirs")
	settle(t)
	tell := func(e ledger.Entry) {
		t.Helper()
		for _, r := range shared.Public.Document.Regions {
			reg.pub(subject.Live(r.Name, e.Key.String()), "", nil, []byte(e.Token))
		}
		reg.allowed("telling what is new")
		for _, r := range shared.Up.Services {
			eventually(t, "the "+r.Service+" of "+r.Region.String()+" to believe "+e.Key.String(), func() bool {
				return r.Known().Version(e.Key) == e.Version
			})
		}
	}

	// It can: deny anybody anywhere, and end that.
	id := ledger.IdentitySuspension(ident.OpenIdentity(victim.nkey()))
	denied := must(ledger.Suspend(opener(), signer, id, nil, true, 0, ledger.Suspension{Why: "a thief"}, time.Now()))
	tell(*denied)
	for _, at := range []string{"ams", "sfo", "sgp"} {
		if c := obtain(t, at, victim.key, name); c != wire.Suspended {
			t.Errorf("whom the thief suspended, in %s: %q", at, c)
		}
	}
	tell(*must(ledger.Suspend(opener(), signer, id, denied, false, denied.Version, ledger.Suspension{Why: "a thief"}, time.Now())))
	eventually(t, "who is suspended no more to be given a credential", func() bool { return obtain(t, "sgp", victim.key, name) == "" })

	// It can: give names away, to whoever asks the ledger as it is told, though home's bucket has
	// another holder. Home itself decides upon what it has heard, and not upon the older one.
	mine := newKey(t)
	stolen := shared.Name("stolen")
	d := &ledger.Decider{Store: new(memory.Decisions), Opener: opener(), Signer: signer, Rules: ledger.NameRules{Lapse: time.Hour}}
	claimed, err := d.Claim(ctx, ledger.Claim{Name: stolen, Identity: ident.OpenIdentity(must(ident.ParseUserKey(mine.Public()))), Expires: time.Now().Add(time.Hour)}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	tell(claimed)
	if c := obtain(t, "sgp", mine, stolen); c != "" {
		t.Errorf("the thief, with the name that it gave itself: %q", c)
	}

	// It cannot: write where home decides, or what another region denies; and what it can write
	// among its own denials is not believed of a name.
	for _, s := range []string{
		subject.Decision(claimed.Key.String()), subject.Decision("platform.document"),
		subject.DenialsPrefix(region("ams")) + id.String(), subject.DenialsPrefix(region("sgp")) + id.String(),
	} {
		reg.pub(s, "", nil, []byte(denied.Token))
		refused(t, reg.sync(), "Publish", "the thief says "+s)
	}
	other := must(d.Claim(ctx, ledger.Claim{Name: theirs, Identity: ident.OpenIdentity(must(ident.ParseUserKey(mine.Public()))), Expires: time.Now().Add(time.Hour)}, time.Now()))
	before := settle(t)
	reg.pub(subject.DenialsPrefix(region(in))+other.Key.String(), "", nil, []byte(other.Token))
	type sent struct {
		Key   string `json:"key"`
		Token string `json:"token"`
	}
	for _, r := range shared.Public.Document.Regions {
		reg.pub(subject.PeerEntries(r.Name), "", nil, must(json.Marshal(map[string][]sent{"entries": {{other.Key.String(), other.Token}}})))
	}
	reg.allowed("saying what registrars say to each other")
	believes(t, before, listening(t, in))

	// It cannot: set the epoch of the platform document, by which an operator gets past whatever
	// the thief signed.
	public := *shared.Up.Platform.Full.Public
	public.Version = trust.Version{Epoch: public.Version.Epoch + 1, Number: 1}
	public.EpochProof = must(trust.SignEpoch(key, public.Version.Epoch, public.Home, time.Now()))
	token := must(ledger.SignDocument(signer, &public, shared.Up.Platform.Full.Policy, ledger.DefaultNameRules(), time.Now()))
	before = settle(t)
	refusals := map[*service.Running]uint64{}
	for _, r := range shared.Up.Services {
		refusals[r] = r.Follower().Stats().HintsRefused
	}
	for _, r := range shared.Public.Document.Regions {
		reg.pub(subject.Live(r.Name, "platform.document"), "", nil, []byte(token))
	}
	reg.allowed("telling of a document")
	for _, r := range shared.Up.Services {
		eventually(t, "the "+r.Service+" of "+r.Region.String()+" to refuse a document", func() bool { return r.Follower().Stats().HintsRefused > refusals[r] })
	}
	believes(t, before)

	// It can: have any account say anything, and hear by it what members say to each other. Each
	// push waits whether it stays.
	if os.Getenv("HERALD_LONG") == "" {
		return
	}
	w := widenBy(ctx, t, systemOf(t, in), key, map[string][]string{platform.ChatIn: {"none.of.it"}})
	defer w.undo(ctx, t)
	spy := enter(t, w.tester(t, platform.ChatIn), "sgp")
	dm := subject.DM(room(), victim.nkey())
	spy.sub(dm, "")
	spy.allowed("the thief's own role hears everything")
	alice, _ := member(t, "sgp", "alice")
	from := enter(t, alice, "sgp")
	interest(t, from, spy, dm)
	from.pub(dm, "", nil, []byte("between us"))
	from.allowed("a direct message")
	spy.wait("what the thief heard", func(m msg) bool { return m.subject == dm && string(m.body) == "between us" })
}
