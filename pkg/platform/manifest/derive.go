package manifest

import (
	"cmp"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/policy"
)

// Defaults of lifetimes.
const (
	DefaultLifetime = Duration(time.Hour)
	DefaultLongest  = Duration(12 * time.Hour)
)

// ClientURLs are the URLs that clients of a region are told.
func (f *File) ClientURLs(r Region) []string {
	scheme := "nats://"
	if f.TLS.Clients.On() {
		scheme = "tls://"
	}
	at := r.Clients
	if len(at) == 0 {
		for _, n := range r.Nodes {
			at = append(at, n.Client)
		}
	}
	urls := make([]string, 0, len(at))
	for _, a := range at {
		urls = append(urls, scheme+a)
	}
	return urls
}

// Lifetimes are how long credentials of a role live: by default, and at most.
func (f *File) Lifetimes(r Role) (def, longest Duration) {
	longest = cmp.Or(r.Longest, f.Credentials.Longest, DefaultLongest)
	return min(cmp.Or(r.Lifetime, f.Credentials.Lifetime, DefaultLifetime), longest), longest
}

// Kinds are the kinds of identities that a grant may be to.
func Kinds() []string {
	return []string{ident.KindOpen, ident.KindInvite, ident.KindKey, ident.KindOIDC}
}

// Everyone is to whom a grant is that is to everybody, and how one ends that is to a
// category.
const Everyone = policy.Root

// OwnAccounts are the names of the accounts that Herald brings.
func OwnAccounts() []string {
	return []string{System, Ledger, Readers, Auth, Guest, Admin, Door, ChatIn}
}
