package subject_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/subject"
)

const user = "UAB2CB576PHBBPQ5ODORRZ2LYCMWPZGWGCN2KDK7DXOIMZASKUY3RLKK"

func parse[T any](t testing.TB, f func(string) (T, error), s string) T {
	t.Helper()
	v, err := f(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestSubjects(t *testing.T) {
	u := parse(t, ident.ParseUserKey, user)
	room, channel := parse(t, ident.ParseLabel, "KUBECON"), parse(t, ident.ParseLabel, "General")
	ams := parse(t, ident.ParseRegion, "ams")
	for got, want := range map[string]string{
		subject.UserInboxPrefix(u):    "_INBOX_" + user,
		subject.ServiceInboxPrefix(u): "_INBOX.svc." + user,
		subject.MirrorStream(ams):     "DECISIONS_ams",
		subject.DenialsStream(ams):    "DENIALS_ams",
		subject.RecordsStream(ams):    "AUDIT_ams",
		subject.DirectGet("S"):        "$JS.API.DIRECT.GET.S",
		subject.Decision("name.a=b"):  "$KV.decisions.name.a=b",
		subject.Denials(ams):          "denials.ams.>",
		subject.DenialsPrefix(ams):    "denials.ams.",
		subject.AuditPrefix(ams):      "audit.ams.",
		subject.LedgerNewsPrefix(ams): "ledger.ams.",
		subject.Live(ams, "name.a"):   "ledger.ams.live.name.a",
		subject.RecordNewsPrefix(ams): "records.ams.",
		subject.Post(room, channel):   "chat.KUBECON.posts.General",
		subject.Posts(room):           "chat.KUBECON.posts.*",
		subject.DM(room, u):           "chat.KUBECON.dms." + user,
		subject.DMs(room):             "chat.KUBECON.dms.*",
		subject.OwnDMs(room):          "chat.KUBECON.dms.{{subject()}}",
		subject.Online(room):          "chat.KUBECON.online",
		subject.History(room):         "chat.KUBECON.history",
		subject.Marks(room):           "chat.KUBECON.marks",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// A client's inbox prefix lies in the one inbox that its role may read, and in
// nobody else's.
func TestInboxesMatchTheirTemplates(t *testing.T) {
	u := parse(t, ident.ParseUserKey, user)
	for template, prefix := range map[string]string{
		subject.UserInbox: subject.UserInboxPrefix(u), subject.ServiceInbox: subject.ServiceInboxPrefix(u),
	} {
		if expanded := strings.Replace(template, "{{subject()}}", user, 1); expanded != prefix+".>" {
			t.Errorf("%s expands to %s, the prefix is %s", template, expanded, prefix)
		}
	}
	room := parse(t, ident.ParseLabel, "R")
	if strings.Replace(subject.OwnDMs(room), "{{subject()}}", user, 1) != subject.DM(room, u) {
		t.Error("a user's direct messages go where that user may not read")
	}
	// The first token differs: a pattern below _INBOX never covers a user's.
	if strings.HasPrefix(subject.UserInboxPrefix(u), "_INBOX.") {
		t.Error("user inboxes lie below _INBOX, which clients subscribe to by default")
	}
}

// covers tells whether a subject is one of a pattern's, by the rules of NATS.
func covers(pattern, s string) bool {
	p, q := strings.Split(pattern, "."), strings.Split(s, ".")
	for i, tok := range p {
		switch {
		case tok == ">":
			return len(q) > i
		case i >= len(q) || (tok != "*" && tok != q[i]):
			return false
		}
	}
	return len(p) == len(q)
}

// What the programs publish lies in what their roles may publish and in what those
// who wait for it may subscribe; and a region's lies in no other region's.
func TestLedgerSubjectsMatchTheirPatterns(t *testing.T) {
	ams, sfo := parse(t, ident.ParseRegion, "ams"), parse(t, ident.ParseRegion, "sfo")
	in := func(pattern string, r ident.Region) string {
		return strings.ReplaceAll(pattern, "{{tag(region)}}", r.String())
	}
	const key = "suspension.user.A.U"
	for _, tc := range []struct {
		what, subject string
		patterns      []string // that have it
		not           []string // that do not
	}{
		{"a decision", subject.Decision(key), []string{subject.Decisions}, []string{subject.DenialsAll, in(subject.OwnDenials, ams), subject.LiveAll}},
		{
			"a denial", subject.DenialsPrefix(ams) + key,
			[]string{subject.DenialsAll, subject.Denials(ams), in(subject.OwnDenials, ams)},
			[]string{subject.Denials(sfo), in(subject.OwnDenials, sfo), subject.Decisions},
		},
		{"live news", subject.Live(ams, key), []string{subject.LiveAll, in(subject.LedgerNews, ams), subject.LedgerNewsExport}, []string{in(subject.LedgerNews, sfo)}},
		// Registrars may tell live news to all; what is stored only streams republish.
		{
			"stored news", subject.LedgerNewsPrefix(ams) + "decisions." + key,
			[]string{in(subject.LedgerNews, ams), subject.LedgerNewsExport},
			[]string{subject.LiveAll, in(subject.LedgerNews, sfo), subject.PeersAll, in(subject.OwnDenials, ams)},
		},
		{"a record", subject.AuditPrefix(ams) + user, []string{subject.AuditExport}, []string{subject.RecordNewsAll}},
		{"a record's news", subject.RecordNewsPrefix(ams) + user, []string{subject.RecordNewsAll}, []string{subject.AuditExport, subject.LedgerNewsExport}},
		{"a word between registrars", "peers.ams.digest", []string{subject.PeersAll, in(subject.OwnPeers, ams)}, []string{subject.EveryPeer, in(subject.OwnPeers, sfo)}},
		{"a word to all registrars", "peers.ALL.digest", []string{subject.PeersAll, subject.EveryPeer}, []string{in(subject.OwnPeers, ams)}},
	} {
		for _, p := range tc.patterns {
			if !covers(p, tc.subject) {
				t.Errorf("%s: %s is not in %s", tc.what, tc.subject, p)
			}
		}
		for _, p := range tc.not {
			if covers(p, tc.subject) {
				t.Errorf("%s: %s is in %s", tc.what, tc.subject, p)
			}
		}
	}
	if !covers(subject.StreamCreate, "$JS.API.STREAM.CREATE."+subject.MirrorStream(ams)) || covers(subject.StreamCreate, "$JS.API.STREAM.CREATE.x.y") {
		t.Error("the right to create streams is not one to create each by its name")
	}
}

// Whatever identifiers go in, the subject has as many tokens as it should and
// no wildcard that was not there.
func TestIdentifiersAreOneToken(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		room, err := ident.ParseLabel(rapid.StringMatching(`[A-Za-z0-9_-]{1,32}`).Draw(r, "room"))
		if err != nil {
			r.Fatal(err)
		}
		reg, err := ident.ParseRegion(rapid.StringMatching(`[a-z][a-z0-9]{0,15}`).Draw(r, "region"))
		if err != nil {
			r.Fatal(err)
		}
		for s, tokens := range map[string]int{
			subject.Post(room, room): 4, subject.Online(room): 3, subject.History(room): 3, subject.Marks(room): 3,
			subject.MirrorStream(reg): 1, subject.DenialsStream(reg): 1, subject.RecordsStream(reg): 1, subject.DirectGet(subject.DenialsStream(reg)): 5,
			subject.DenialsPrefix(reg) + "k": 3, subject.AuditPrefix(reg) + "k": 3, subject.Live(reg, "k"): 4, subject.RecordNewsPrefix(reg) + "k": 3,
		} {
			if strings.Count(s, ".")+1 != tokens || strings.ContainsAny(s, "*> \t") || strings.Contains(s, "..") {
				r.Fatalf("%s has not %d tokens", s, tokens)
			}
		}
	})
}
