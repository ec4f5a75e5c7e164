package registrar

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"pgregory.net/rapid"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/trust"
)

func made[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// bench is what a simulation of several registrars, servers and one account is made of.
type bench struct {
	t       testing.TB
	op      *trust.Operator
	signing [3]*keystore.Key
	foreign *keystore.Key
	account string
	began   time.Time
	now     time.Time
	// Of each registrar: how far its clock is ahead, and the revocations of its ledger.
	skews   [3]time.Duration
	ledgers [3]map[ledger.Key]ledger.Revocation
	users   [2]ident.UserKey
}

func newBench(t testing.TB) *bench {
	key := func(kind keystore.Kind) *keystore.Key { return made[*keystore.Key](t)(keystore.Generate(kind)) }
	b := &bench{t: t, foreign: key(keystore.Operator), account: key(keystore.Account).Public(), now: time.Unix(1_790_000_000, 0)}
	b.began = b.now
	for i := range b.users {
		b.users[i] = made[ident.UserKey](t)(ident.ParseUserKey(key(keystore.User).Public()))
	}
	var pubs []string
	for i := range b.signing {
		b.signing[i] = key(keystore.Operator)
		pubs = append(pubs, b.signing[i].Public())
	}
	system := made[ident.AccountKey](t)(ident.ParseAccountKey(key(keystore.Account).Public()))
	b.op = made[*trust.Operator](t)(trust.ParseOperator(made[string](t)(trust.NewOperator("test", key(keystore.Operator), pubs, system))))
	return b
}

// moments are some up to which somebody may be revoked: now, almost over, over and long over.
func (b *bench) moments() []int64 {
	end := b.began.Add(-ledger.MaxLife)
	return []int64{
		b.began.Unix(), b.began.Unix() - 1, b.began.Unix() + 100, end.Add(time.Hour).Unix(), end.Add(3 * time.Second).Unix(), end.Add(-time.Second).Unix(),
		end.Add(-forgetAfter + 3*time.Second).Unix(), end.Add(-forgetAfter - time.Second).Unix(), end.Add(-2 * forgetAfter).Unix(), end.Add(-48 * time.Hour).Unix(),
	}
}

// token is an account JWT; of one version there is one base.
func (b *bench) token(version int, revoked map[string]int64, by *keystore.Key, at time.Time) string {
	c := jwt.NewAccountClaims(b.account)
	c.Name, c.Description = "TENANT", "base "+strconv.Itoa(version)
	c.Tags.Add(trust.TagBase + strconv.Itoa(version))
	for who, at := range revoked {
		c.RevokeAt(who, time.Unix(at, 0))
	}
	c.Issuer, c.IssuedAt, c.Type, c.Version = by.Public(), at.Unix(), jwt.AccountClaim, 2
	return made[string](b.t)(trust.EncodeJWT(c, by))
}

func (b *bench) resolver(i int) *Resolver {
	return &Resolver{op: b.op, signer: b.signing[i], now: func() time.Time { return b.now.Add(b.skews[i]) }, Revoked: func(ident.AccountKey) map[ledger.Key]ledger.Revocation { return b.ledgers[i] }}
}

func (b *bench) content(token string) (trust.Content, bool) {
	a, err := b.op.OpenAccount(token)
	if err != nil {
		return trust.Content{}, false
	}
	return made[trust.Content](b.t)(a.Content()), true
}

// iat is the date of a token, whoever signed it.
func (b *bench) iat(token string) int64 {
	return made[*jwt.AccountClaims](b.t)(jwt.DecodeAccountClaims(token)).IssuedAt
}

// What is signed to be later than a date that is nearly too far ahead must not be too far
// ahead itself: two registrars would replace each other's for ever.
func TestDatesNearlyTooFarAhead(t *testing.T) {
	b := newBench(t)
	for _, ahead := range []time.Duration{239, 240, 241, 299, 300, 301} {
		var holds string
		known := [2]string{}
		for i := range known {
			known[i] = b.token(1, map[string]int64{"U" + strconv.Itoa(i): b.now.Unix()}, b.signing[i], b.now.Add(ahead*time.Second))
		}
		pushes := 0
		for i := range 20 {
			res := b.resolver(i % 2)
			items := made[[]*item](t)(res.open(known[i%2 : i%2+1]))
			items[0].hold([]byte(holds))
			if res.judge(items[0], 1, true); items[0].push != nil {
				holds, pushes = items[0].push.Token, pushes+1
			}
		}
		if pushes > 3 {
			t.Errorf("dated %d s ahead: %d pushes", ahead, pushes)
		}
	}
}

// Registrars that look and push at any moments, in any order, over each other and over what
// others push, beside servers that copy from each other, come to rest, also where their clocks
// differ; and then all servers hold all that any of the registrars knew or the ledger of any had,
// and no revocation that is long over.
func TestRegistrarsComeToRest(t *testing.T) {
	b := newBench(t)
	draw := func(r *rapid.T, what string) string {
		by := rapid.SampledFrom(append(b.signing[:], b.foreign)).Draw(r, what+" signer")
		revoked := rapid.MapOf(rapid.SampledFrom([]string{"UA", "UB", "*"}), rapid.SampledFrom(b.moments())).Draw(r, what+" revoked")
		at := b.now.Add(time.Duration(rapid.SampledFrom([]int{-100, -1, 0, 1, 200, 299, 300, 301, 1 << 30}).Draw(r, what+" date")) * time.Second)
		return b.token(rapid.IntRange(1, 3).Draw(r, what+" version"), revoked, by, at)
	}
	account := made[ident.AccountKey](t)(ident.ParseAccountKey(b.account))
	rapid.Check(t, func(r *rapid.T) {
		b.now = b.began
		const servers = 4 // 0 and 1 are a cluster, 2 and 3 another
		var holds [servers]string
		known := make([][]string, 3)
		for i := range known {
			for j := range rapid.IntRange(1, 2).Draw(r, "knows") {
				for {
					token := draw(r, "registrar "+strconv.Itoa(i)+" knows "+strconv.Itoa(j))
					if _, ours := b.content(token); ours {
						known[i] = append(known[i], token)
						break
					}
				}
			}
		}
		b.ledgers, b.skews = [3]map[ledger.Key]ledger.Revocation{}, [3]time.Duration{}
		everybody := map[string]int64{} // that somebody's ledger has revoked
		for i := range b.ledgers {
			b.skews[i] = time.Duration(rapid.SampledFrom([]int{0, 0, 0, -90, 90}).Draw(r, "clock")) * time.Second
			b.ledgers[i] = map[ledger.Key]ledger.Revocation{}
			for range rapid.IntRange(0, 2).Draw(r, "revoked in the ledger") {
				key, who := ledger.EverybodyKey(account), jwt.All
				if u := rapid.IntRange(-1, len(b.users)-1).Draw(r, "user"); u >= 0 {
					key, who = ledger.RevocationKey(account, b.users[u]), b.users[u].String()
				}
				at := rapid.SampledFrom(b.moments()).Draw(r, "revoked until")
				b.ledgers[i][key] = ledger.Revocation{Before: max(at, b.ledgers[i][key].Before)}
				everybody[who] = max(everybody[who], at)
			}
		}
		const apart = 2 * time.Minute // clocks, and what the steps below take
		// lives is what certainly has to be told, and over what certainly has not.
		lives := func(at int64) bool { return b.now.Add(apart).Before(ends(at)) }
		over := func(at int64) bool { return b.now.Add(-apart).After(ends(at).Add(forgetAfter)) }
		living := func(c trust.Content) trust.Content {
			return c.Forget(func(_ string, at int64) bool { return !lives(at) })
		}
		// short is what is left of it without those whom everybody's revocation covers.
		short := func(c trust.Content) trust.Content {
			everybody := c.RevokedUntil(jwt.All)
			return living(c).Forget(func(user string, at int64) bool { return user != jwt.All && at <= everybody })
		}
		// covers tells whether c says all that less does and that still matters.
		covers := func(c, less trust.Content) bool {
			return short(made[trust.Content](t)(trust.Join(living(c), living(less)))).Equal(short(c))
		}
		var plans [3]string
		look := func(i int) bool {
			res := b.resolver(i)
			items := made[[]*item](t)(res.open(known[i]))
			for _, token := range holds {
				items[0].hold([]byte(token))
			}
			res.judge(items[0], servers, true)
			if items[0].st.Err != nil {
				r.Fatalf("registrar %d: %v", i, items[0].st.Err)
			}
			plans[i] = ""
			if p := items[0].push; p != nil {
				plans[i] = p.Token
				if c, ours := b.content(p.Token); !ours {
					r.Fatalf("registrar %d pushes what is not believed", i)
				} else {
					for _, token := range append(slices.Clone(known[i]), holds[:]...) {
						if less, ours := b.content(token); ours && !covers(c, less) {
							r.Fatalf("registrar %d pushes less than there is", i)
						}
					}
				}
				if at := b.iat(p.Token); at > b.now.Add(6*time.Minute).Unix() {
					r.Fatalf("registrar %d pushes what is dated %d, now is %d", i, at, b.now.Unix())
				}
			}
			return plans[i] != ""
		}
		push := func(i int) {
			if plans[i] != "" {
				holds = [servers]string{plans[i], plans[i], plans[i], plans[i]}
			}
		}
		// A server takes what another of its cluster has, unless its own is dated later.
		copyTo := func(from int) {
			to := from ^ 1
			if holds[from] != "" && (holds[to] == "" || b.iat(holds[to]) <= b.iat(holds[from])) {
				holds[to] = holds[from]
			}
		}
		for range rapid.IntRange(0, 12).Draw(r, "steps") {
			i := rapid.IntRange(0, 2).Draw(r, "who")
			switch rapid.SampledFrom([]string{"look", "push", "copy", "other", "part", "wait"}).Draw(r, "step") {
			case "look":
				look(i)
			case "push":
				push(i)
			case "copy":
				copyTo(rapid.IntRange(0, servers-1).Draw(r, "from"))
			case "other":
				token := draw(r, "another's push")
				holds = [servers]string{token, token, token, token}
			case "part": // the others are cut off
				token := draw(r, "another's push to some")
				holds[0], holds[1] = token, token
			case "wait":
				b.now = b.now.Add(time.Second)
			}
		}
		pushes := 0
		for round := 0; ; round++ {
			rest := true
			for i := range known {
				if look(i) {
					rest, pushes = false, pushes+1
					push(i)
				}
				copyTo(rapid.IntRange(0, servers-1).Draw(r, "from"))
			}
			if rest {
				break
			}
			if round > 4 {
				r.Fatalf("%d pushes, and no end", pushes)
			}
		}
		for s, token := range holds {
			c, ours := b.content(token)
			if !ours {
				r.Fatalf("server %d holds what is not believed", s)
			}
			for _, mine := range slices.Concat(known...) {
				if less, _ := b.content(mine); !covers(c, less) {
					r.Errorf("server %d lacks what a registrar knew", s)
				}
			}
			if first, _ := b.content(holds[0]); !short(first).Equal(short(c)) {
				r.Errorf("servers 0 and %d differ", s)
			}
			for who, at := range everybody {
				if lives(at) && max(c.RevokedUntil(who), c.RevokedUntil(jwt.All)) < at {
					r.Errorf("server %d does not know that %s is revoked", s, who)
				}
			}
			for who, at := range c.Revocations() {
				if over(at) {
					r.Errorf("server %d holds a revocation of %s that is long over", s, who)
				}
			}
		}
	})
}
