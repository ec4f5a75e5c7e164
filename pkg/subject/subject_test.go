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
	n := parse(t, ident.ParseName, "a.b-c")
	for got, want := range map[string]string{
		subject.UserInboxPrefix(u):    "_INBOX_" + user,
		subject.ServiceInboxPrefix(u): "_INBOX.svc." + user,
		subject.Name(n):               "a=b-c",
		subject.NameGet(n):            "$JS.API.DIRECT.GET.KV_names.$KV.names.a=b-c",
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

// Whatever identifiers go in, the subject has as many tokens as it should and
// no wildcard that was not there.
func TestIdentifiersAreOneToken(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		room, err := ident.ParseLabel(rapid.StringMatching(`[A-Za-z0-9_-]{1,32}`).Draw(r, "room"))
		if err != nil {
			r.Fatal(err)
		}
		n, err := ident.ParseName(rapid.StringMatching(`[a-z0-9]([._-]?[a-z0-9]){0,15}`).Draw(r, "name"))
		if err != nil {
			r.Fatal(err)
		}
		for s, tokens := range map[string]int{
			subject.Post(room, room): 4, subject.Online(room): 3, subject.History(room): 3, subject.Marks(room): 3, subject.NameGet(n): 8, subject.Name(n): 1,
		} {
			if strings.Count(s, ".")+1 != tokens || strings.ContainsAny(s, "*> \t") || strings.Contains(s, "..") {
				r.Fatalf("%s has not %d tokens", s, tokens)
			}
		}
	})
}
