package configtest

import (
	"crypto/sha256"
	"regexp"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform/claims"
	"github.com/herald-nats/herald/pkg/platform/manifest"
)

// keys are made-up public keys for all that a description needs.
func keys(t testing.TB, f *manifest.File) claims.Keys {
	t.Helper()
	public := func(prefix nkeys.PrefixByte, name string) string {
		sum := sha256.Sum256([]byte(name))
		return string(must(nkeys.Encode(prefix, sum[:])))
	}
	k := claims.Keys{
		Accounts: map[ident.Label]ident.AccountKey{}, Roles: map[manifest.RoleRef]ident.AccountKey{}, Regions: map[ident.Region]ident.SealKey{},
	}
	for _, a := range f.AllAccounts() {
		k.Accounts[a.Name] = must(ident.ParseAccountKey(public(nkeys.PrefixByteAccount, a.Name.String())))
		for _, r := range a.Roles {
			ref := manifest.RoleRef{Account: a.Name, Role: r.Name}
			k.Roles[ref] = must(ident.ParseAccountKey(public(nkeys.PrefixByteAccount, ref.String())))
		}
	}
	for _, r := range f.Regions {
		k.Regions[r.Name] = must(ident.ParseSealKey(public(nkeys.PrefixByteCurve, r.Name.String())))
	}
	k.Callout = must(ident.ParseSealKey(public(nkeys.PrefixByteCurve, "callout")))
	return k
}

// Every example is accepted, compiles, and grants something.
func TestExamples(t *testing.T) {
	for _, name := range examples(t) {
		t.Run(name, func(t *testing.T) {
			f := parsed(t, name)
			c := claims.New(f, keys(t, f))
			for _, a := range c.Accounts() {
				if _, err := c.Account(a, 1); err != nil {
					t.Error(err)
				}
			}
			if _, err := c.Public("O"); err != nil {
				t.Error(err)
			}
			if p, err := c.Policy(); err != nil || len(p.Offers) != len(f.Grants) || len(p.Offers) == 0 {
				t.Errorf("%d offers of %d grants: %v", len(p.Offers), len(f.Grants), err)
			}
		})
	}
}

// docs/identities.md shows every example as it is, once, and no other fragment.
func TestPageShowsExamples(t *testing.T) {
	page := read(t, "docs", "identities.md")
	blocks := map[string]int{}
	for _, m := range regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$").FindAllStringSubmatch(page, -1) {
		if strings.Contains(m[1], "platform.yaml") {
			blocks[m[1]]++
		}
	}
	for _, name := range examples(t) {
		text := read(t, "configs", "identities", name)
		if blocks[text] != 1 {
			t.Errorf("docs/identities.md shows configs/identities/%s %d times as it is", name, blocks[text])
		}
		delete(blocks, text)
	}
	for text := range blocks {
		line, _, _ := strings.Cut(text, "\n")
		t.Errorf("docs/identities.md shows a fragment that is no file of configs/identities: %s", line)
	}
}
