package convergebench

import (
	"context"
	"os"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/internal/supercluster"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/registrar"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/trust"
)

const (
	accounts = 10_000
	rounds   = 4 // even: each way is as often first as second
	// atLeast is the part of the servers' own rate that is to be reached.
	atLeast = 0.7
	// oneByOne is how many accounts are pushed one at a time.
	oneByOne = 24
)

// world is a supercluster of three regions with three servers each, that has no accounts
// but SYS.
type world struct {
	dir     string
	cluster *supercluster.Supercluster
	op      *trust.Operator
	signing *keystore.Key
	nc      *nats.Conn // as a registrar
	names   []string   // of the servers
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func start(ctx context.Context, b *testing.B) *world {
	b.Helper()
	root, system, role := must(keystore.Generate(keystore.Operator)), must(keystore.Generate(keystore.Account)), must(keystore.Generate(keystore.Account))
	w := &world{dir: must(os.MkdirTemp("", "convergebench-*")), signing: must(keystore.Generate(keystore.Operator))}
	token := must(trust.NewOperator("bench", root, []string{w.signing.Public()}, must(ident.ParseAccountKey(system.Public()))))
	w.op = must(trust.ParseOperator(token))
	sys := jwt.NewAccountClaims(system.Public())
	sys.Name = "SYS"
	sys.SigningKeys.Add(role.Public())
	cfg := supercluster.Config{Dir: w.dir, Operator: token, SystemAccount: must(sys.Encode(w.signing.Pair()))}
	const free = "127.0.0.1:0"
	for _, name := range []string{"ams", "sfo", "sgp"} {
		r := supercluster.Region{Name: must(ident.ParseRegion(name)), Gateway: free}
		for i := range 3 {
			r.Nodes = append(r.Nodes, supercluster.Node{Name: name + "-" + strconv.Itoa(i+1), Client: free, Cluster: free, Gateway: free})
			w.names = append(w.names, name+"-"+strconv.Itoa(i+1))
		}
		cfg.Regions = append(cfg.Regions, r)
	}
	var err error
	if w.cluster, err = supercluster.Start(ctx, cfg); err != nil {
		b.Fatal(err)
	}
	user := must(keystore.Generate(keystore.User))
	claims := jwt.NewUserClaims(user.Public())
	claims.IssuerAccount = system.Public()
	w.nc, err = natsconn.Dial(ctx, natsconn.Options{
		URLs: w.cluster.URLs(cfg.Regions[0].Name), Name: "bench", InboxPrefix: subject.ServiceInboxPrefix(must(ident.ParseUserKey(user.Public()))),
		Credential: natsconn.Static{Token: must(claims.Encode(role.Pair())), Key: user},
	})
	if err != nil {
		b.Fatal(err)
	}
	// Everybody must have heard of everybody: the first message over a gateway is slower.
	if found, err := w.resolver().Servers(ctx, w.names); err != nil || len(found) != len(w.names) {
		b.Fatalf("%d servers: %v", len(found), err)
	}
	return w
}

func (w *world) close(ctx context.Context, b *testing.B) {
	b.Helper()
	w.nc.Close()
	if err := w.cluster.Close(ctx); err != nil {
		b.Error(err)
	}
	// Now, and not at the end: what is still to be written to the disk would be written
	// during the next measurement.
	if err := os.RemoveAll(w.dir); err != nil {
		b.Error(err)
	}
}

func (w *world) resolver() *registrar.Resolver {
	return registrar.NewResolver(w.nc, w.op, w.signing, time.Now)
}

// fresh makes account JWTs as a platform has them, each with one scoped role.
func (w *world) fresh(b *testing.B, n int) []string {
	b.Helper()
	tokens := make([]string, n)
	for i := range tokens {
		c := jwt.NewAccountClaims(must(keystore.Generate(keystore.Account)).Public())
		c.Name = "TENANT-" + strconv.Itoa(i)
		c.Tags.Add(trust.TagBase + "1")
		scope := jwt.NewUserScope()
		scope.Key, scope.Role = must(keystore.Generate(keystore.Account)).Public(), "member"
		scope.Template.Pub.Allow.Add("app.{{subject()}}.>", "rooms.*.posts")
		scope.Template.Sub.Allow.Add(subject.UserInbox, "rooms.>")
		scope.Template.AllowedConnectionTypes.Add(jwt.ConnectionTypeStandard, jwt.ConnectionTypeWebsocket)
		c.SigningKeys.AddScopedSigner(scope)
		c.Issuer, c.IssuedAt, c.Type, c.Version = w.signing.Public(), time.Now().Unix(), jwt.AccountClaim, 2
		c.ID = trust.ID(c.Subject)
		tokens[i] = must(trust.EncodeJWT(c, w.signing))
	}
	return tokens
}

// converge is what a registrar and the set-up tool do.
func (w *world) converge(ctx context.Context, b *testing.B, tokens []string) {
	b.Helper()
	rep, err := w.resolver().Converge(ctx, tokens, w.names)
	if err == nil {
		err = rep.Err()
	}
	if err != nil || rep.InLine() != len(tokens) || rep.Pushed() != len(tokens) || len(rep.Servers) != len(w.names) {
		b.Fatalf("%d of %d in line, %d pushed: %v", rep.InLine(), len(tokens), rep.Pushed(), err)
	}
}

// survey asks for accounts that all servers hold.
func (w *world) survey(ctx context.Context, b *testing.B, tokens []string) float64 {
	b.Helper()
	began := time.Now()
	rep, err := w.resolver().Survey(ctx, tokens, w.names)
	if err != nil || rep.Err() != nil {
		b.Fatalf("%v %v", err, rep.Err())
	}
	return float64(len(tokens)) / time.Since(began).Seconds()
}

// underWay is how many pushes the raw loop has under way: more are no faster, and with all
// of them at once the connection is lost, because servers that cannot follow hold up who
// publishes.
const underWay = 1000

// raw pushes without looking before or after, and counts answers without reading them.
func (w *world) raw(ctx context.Context, b *testing.B, tokens []string) {
	b.Helper()
	inbox, servers := w.nc.NewInbox(), len(w.names)
	msgs := make(chan *nats.Msg, underWay*servers)
	sub := must(w.nc.ChanSubscribe(inbox, msgs))
	defer func() { _ = sub.Unsubscribe() }()
	sent := 0
	for got := range len(tokens) * servers {
		for ; sent < len(tokens) && sent*servers-got < underWay*servers; sent++ {
			if err := w.nc.PublishRequest(subject.ClaimsUpdate, inbox, []byte(tokens[sent])); err != nil {
				b.Fatal(err)
			}
		}
		select {
		case <-msgs:
		case <-ctx.Done():
			b.Fatalf("%d answers: %v", got, context.Cause(ctx))
		}
	}
}

// slow pushes one account after the other and collects answers for a second each.
func (w *world) slow(b *testing.B, tokens []string) {
	b.Helper()
	for _, t := range tokens {
		inbox := w.nc.NewInbox()
		sub := must(w.nc.SubscribeSync(inbox))
		until := time.Now().Add(time.Second)
		if err := w.nc.PublishRequest(subject.ClaimsUpdate, inbox, []byte(t)); err != nil {
			b.Fatal(err)
		}
		answers := 0
		for {
			if _, err := sub.NextMsg(time.Until(until)); err != nil {
				break
			}
			answers++
		}
		if answers != len(w.names) {
			b.Errorf("%d answers", answers)
		}
		_ = sub.Unsubscribe()
	}
}

// processor is how much of the machine's processors this process has used.
func processor(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// figures are those of several rounds.
type figures []float64

func (f figures) report(b *testing.B, what string) float64 {
	s := slices.Sorted(slices.Values(f))
	median := (s[(len(s)-1)/2] + s[len(s)/2]) / 2
	b.ReportMetric(median, what)
	b.Logf("%s: median %.4g, from %.4g to %.4g in %d rounds", what, median, s[0], s[len(s)-1], len(s))
	return median
}

// BenchmarkConverge brings 10,000 accounts to nine servers, confirmed on every one, and
// compares with a raw loop, which pushes as fast as it can and waits for as many answers,
// and with pushing one account after the other for a second each, as `nsc push` does. That
// is measured with a few dozen accounts: it does not get faster with more.
//
// Everything runs in one process, so that the servers and who pushes share its processors.
// Each measurement is on a new supercluster with new accounts: servers that hold many
// accounts and do not agree exchange all of them once a minute.
func BenchmarkConverge(b *testing.B) {
	ctx, cancel := context.WithTimeout(b.Context(), 20*time.Minute)
	defer cancel()
	var surveyed figures
	// measure gives accounts a second, and what one takes of a processor.
	measure := func(n int, do func(w *world, tokens []string)) (rate, cpu float64) {
		w := start(ctx, b)
		defer w.close(ctx, b)
		tokens := w.fresh(b, n)
		runtime.GC()
		began, used := time.Now(), processor(b)
		do(w, tokens)
		took, used := time.Since(began).Seconds(), processor(b)-used
		if n == accounts {
			surveyed = append(surveyed, w.survey(ctx, b, tokens))
		}
		return float64(n) / took, used.Seconds() / float64(n)
	}
	for b.Loop() {
		var converged, raw, ratio, ratioCPU figures
		ours := func() (float64, float64) {
			return measure(accounts, func(w *world, tokens []string) { w.converge(ctx, b, tokens) })
		}
		theirs := func() (float64, float64) {
			return measure(accounts, func(w *world, tokens []string) { w.raw(ctx, b, tokens) })
		}
		for round := range rounds {
			var rate, rateRaw, cpu, cpuRaw float64
			if round%2 == 0 {
				rate, cpu = ours()
				rateRaw, cpuRaw = theirs()
			} else {
				rateRaw, cpuRaw = theirs()
				rate, cpu = ours()
			}
			converged, raw = append(converged, rate), append(raw, rateRaw)
			ratio, ratioCPU = append(ratio, rate/rateRaw), append(ratioCPU, cpuRaw/cpu)
		}
		slow, _ := measure(oneByOne, func(w *world, tokens []string) { w.slow(b, tokens) })
		rate := converged.report(b, "accounts/s")
		raw.report(b, "raw-accounts/s")
		surveyed.report(b, "surveyed-accounts/s")
		// The same, as far as other programs on the machine have nothing to do with it.
		ratioCPU.report(b, "of-raw-by-processor-time")
		b.ReportMetric(slow, "one-by-one-accounts/s")
		b.ReportMetric(rate/slow, "times-one-by-one")
		if got := ratio.report(b, "of-raw"); got < atLeast {
			b.Errorf("%.2f of the raw rate, less than %.2f", got, atLeast)
		}
	}
}
