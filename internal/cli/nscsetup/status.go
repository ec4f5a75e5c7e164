package nscsetup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/apply"
	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/survey"
	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/doctor/seen"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/subject"
)

// surveyWait bounds one look at a running platform, and directWait the connection to a
// region that does not answer from elsewhere.
const (
	surveyWait = 60 * time.Second
	directWait = 3 * time.Second
)

// picture is a running platform at one moment.
type picture struct {
	*seen.Platform
	// Accounts are in the order of the platform file: SYS and Herald's own first.
	Accounts []seen.Standing `json:"accounts"`
	// Services are nil where they could not be asked, and Unasked says why.
	Services []seen.Service `json:"services"`
	Unasked  string         `json:"services_unasked,omitempty"`
}

// observe looks at a running platform. It wraps survey.ErrNobody or what dialing said if
// nobody can be reached.
func observe(ctx context.Context, t *apply.Tool) (*picture, error) {
	sys, err := t.Dial(ctx, platform.System, platform.RoleSetup)
	if err != nil {
		return nil, err
	}
	defer sys.Close()
	f := t.Platform.File
	pic := &picture{}
	pic.Platform, err = survey.Take(ctx, sys, survey.Options{
		Expect: expected(f), Now: t.Now,
		Dial: func(ctx context.Context, nodes []seen.Node) (*nats.Conn, error) {
			return direct(ctx, t, nodes, platform.System, platform.RoleSetup)
		},
	})
	if err != nil {
		return nil, err
	}
	var work sync.WaitGroup
	work.Go(func() {
		services, serr := askServices(ctx, t, pic.Platform)
		if pic.Services = services; serr != nil {
			pic.Unasked = serr.Error()
		}
	})
	err = pic.accounts(ctx, t, sys)
	work.Wait()
	if err != nil {
		return nil, err
	}
	pic.Took = t.Now().Sub(pic.At)
	return pic, nil
}

// expected are the servers that the platform file names.
func expected(f *manifest.File) []seen.Node {
	var nodes []seen.Node
	for _, r := range f.Regions {
		for _, n := range r.Nodes {
			nodes = append(nodes, seen.Node{Name: n.Name.String(), Region: r.Name})
		}
	}
	return nodes
}

// direct connects to one of some servers, and to no other.
func direct(ctx context.Context, t *apply.Tool, nodes []seen.Node, account, role string) (*nats.Conn, error) {
	to := *t
	to.URLs = nil
	for _, r := range t.Platform.File.Regions {
		only := manifest.Region{Name: r.Name}
		for _, n := range r.Nodes {
			if slices.ContainsFunc(nodes, func(s seen.Node) bool { return s.Name == n.Name.String() }) {
				only.Nodes = append(only.Nodes, n)
			}
		}
		to.URLs = append(to.URLs, t.Platform.File.ClientURLs(only)...)
	}
	if len(to.URLs) == 0 {
		return nil, survey.ErrNobody // no address is known, and all servers would be tried
	}
	dctx, cancel := context.WithTimeout(ctx, directWait)
	defer cancel()
	return to.Dial(dctx, account, role)
}

// at is the server of a view, for direct.
func at(v seen.View) []seen.Node { return []seen.Node{{Name: v.Server, Region: v.Region}} }

// askServices asks issuers and registrars, from every view. They answer as quickly as their
// servers, and then for a while nobody else is waited for.
func askServices(ctx context.Context, t *apply.Tool, p *seen.Platform) ([]seen.Service, error) {
	quiet := survey.Quiet / 4
	for _, s := range p.Servers {
		quiet = max(quiet, 4*s.Clock.RTT)
	}
	quiet = min(quiet, 2*survey.Quiet)
	found := make([][]seen.Service, len(p.Views))
	errs := make([]error, len(p.Views))
	var work sync.WaitGroup
	for i, v := range p.Views {
		work.Go(func() {
			dial := func() (*nats.Conn, error) { return t.Dial(ctx, platform.Admin, platform.RoleAdmin) }
			if i > 0 {
				dial = func() (*nats.Conn, error) { return direct(ctx, t, at(v), platform.Admin, platform.RoleAdmin) }
			}
			nc, err := dial()
			if err != nil {
				errs[i] = fmt.Errorf("services are asked from %s: %w", platform.Admin, err)
				return
			}
			defer nc.Close()
			found[i], errs[i] = survey.Services(ctx, nc, quiet)
		})
	}
	work.Wait()
	if errs[0] != nil {
		return nil, errs[0] // of the others it is known that they are hard to reach
	}
	all := append([]seen.Service{}, slices.Concat(found...)...) // nobody is not the same as not asked
	slices.SortFunc(all, func(a, b seen.Service) int {
		return cmp.Or(cmp.Compare(a.Region, b.Region), cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return slices.CompactFunc(all, func(a, b seen.Service) bool { return a.ID == b.ID }), nil
}

// accounts asks from every view how its servers stand to all accounts.
func (p *picture) accounts(ctx context.Context, t *apply.Tool, sys *nats.Conn) error {
	tokens, err := t.Platform.Tokens()
	if err != nil {
		return err
	}
	before := map[string]bool{}
	for i, v := range p.Views {
		nc := sys
		if i > 0 {
			if nc, err = direct(ctx, t, at(v), platform.System, platform.RoleSetup); err != nil {
				continue // it was there a moment ago; that it is gone the next look tells
			}
			defer nc.Close()
		}
		servers, apart := map[string]string{}, true
		for _, id := range v.Sees {
			if s, ok := p.Server(id); ok {
				servers[id] = s.Name
			}
			apart = apart && !before[id]
			before[id] = true
		}
		all, err := standings(ctx, t, nc, tokens, servers)
		if err != nil {
			return err
		}
		if i == 0 {
			p.Accounts = all
			continue
		}
		for j := range all {
			together(&p.Accounts[j], all[j], apart)
		}
	}
	return nil
}

// atOnce is how many accounts are asked for between two words of progress.
const atOnce = 2500

// standings asks how servers stand to accounts, and tells how far it is.
func standings(ctx context.Context, t *apply.Tool, nc *nats.Conn, tokens []string, servers map[string]string) ([]seen.Standing, error) {
	all := make([]seen.Standing, 0, len(tokens))
	for part := range slices.Chunk(tokens, atOnce) {
		some, err := survey.Accounts(ctx, nc, t.Platform.Operator, part, servers, t.Now)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
		if t.Progress != nil {
			t.Progress("asking for accounts", len(all), len(tokens))
		}
	}
	return all, nil
}

// together adds what another view says of an account. Where the views have servers in
// common these are counted by the one that has more.
func together(s *seen.Standing, o seen.Standing, apart bool) {
	add := func(a *int, b int) {
		if apart {
			*a += b
		} else {
			*a = max(*a, b)
		}
	}
	add(&s.Same, o.Same)
	add(&s.Behind, o.Behind)
	add(&s.Lacking, o.Lacking)
	add(&s.Foreign, o.Foreign)
	add(&s.Unread, o.Unread)
	if o.Version > s.Version {
		// The first view knows nothing of it: what it called in line is not.
		s.Version, s.Changed, s.Behind, s.Same = o.Version, o.Changed, s.Behind+s.Same-o.Same, o.Same
	}
	s.Conflict = s.Conflict || o.Conflict
	s.Size = max(s.Size, o.Size)
	s.Astray = slices.Compact(slices.Sorted(slices.Values(slices.Concat(s.Astray, o.Astray))))
}

// astray are the accounts that are not in line.
func (p *picture) astray() []seen.Standing {
	var out []seen.Standing
	for _, a := range p.Accounts {
		if !a.InLine() {
			out = append(out, a)
		}
	}
	return out
}

// changed is when the youngest account in force was signed.
func (p *picture) changed() time.Time {
	var last time.Time
	for _, a := range p.Accounts {
		if a.Changed.After(last) {
			last = a.Changed
		}
	}
	return last
}

type statusOptions struct {
	watch bool
	every time.Duration
}

func newStatus(g *globals) *cobra.Command {
	var o statusOptions
	c := &cobra.Command{
		Use:   "status",
		Short: "Show how the running platform is",
		Long: `status asks all servers, issuers and registrars how they are: which servers answer,
whether every server has every account as it should be and since when, which regions
are linked, who leads JetStream, and how old the knowledge of the services is.

Accounts that are in line everywhere are counted, others are named, with the servers
that are not in line as far as servers tell. A region that does not answer is asked
directly: it may be up, and cut off.

--watch goes on looking and says since when something is as it is; on a terminal it
draws anew, elsewhere it writes a line for each change. Ctrl-C ends it, with 0.

Exit codes: 0 all is in line; 1 something is not: it is named; 3 what answers is in
line, and some servers do not answer; 5 nobody answers.`,
		Example: `  nscsetup status
  nscsetup status --watch
  nscsetup status --json | jq '.accounts[] | select(.astray)'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runStatus(cmd.Context(), g, o) },
	}
	f := c.Flags()
	f.BoolVar(&o.watch, "watch", false, "go on, until Ctrl-C")
	f.DurationVar(&o.every, "every", 2*time.Second, "how often --watch looks, 500ms or more; less often where a look takes long")
	return c
}

func runStatus(ctx context.Context, g *globals, o statusOptions) error {
	if o.every < 500*time.Millisecond {
		return cli.Errorf(cli.Usage, "choose 500ms or more", "--every %s cannot be", o.every)
	}
	p, err := g.look()
	if err != nil {
		return err
	}
	t := g.tool(p)
	if o.watch {
		return g.watch(ctx, t, o.every)
	}
	sctx, cancel := context.WithTimeout(ctx, surveyWait)
	defer cancel()
	pic, err := observe(sctx, t)
	if err != nil {
		return nobody(ctx, err)
	}
	report := g.statusReport(p, pic)
	if g.json {
		err = cli.JSON(g.Out, report)
	} else {
		err = cli.Print(g.Out, "%s", statusText(p, pic))
	}
	return cmp.Or(err, report.verdict())
}

// nobody says what to do where no server answers.
func nobody(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.Join(ctx.Err(), err)
	}
	if errors.Is(err, survey.ErrNobody) || unreached(err) {
		return cli.Errorf(cli.Unavailable, "are the servers up, and are their addresses those of platform.yaml?", "%w", err)
	}
	return err
}

// statusReport is what `status --json` says: everything.
type statusReport struct {
	Name     string       `json:"platform"`
	Operator string       `json:"operator"`
	Home     ident.Region `json:"home"`
	// InLine: all servers answer and are as they should be. Problems say what is not.
	InLine   bool     `json:"in_line"`
	Problems []string `json:"problems"`
	*picture
	Unlinked []seen.Unlinked `json:"unlinked"`

	broken bool // and not only silent
}

func (g *globals) statusReport(p *platform.Platform, pic *picture) statusReport {
	r := statusReport{
		Name: p.File.Name.String(), Operator: p.Operator.Key(), Home: p.File.Home, Problems: []string{},
		picture: pic, Unlinked: pic.Unlinked(),
	}
	bad := func(format string, args ...any) {
		r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
		r.broken = true
	}
	for _, u := range r.Unlinked {
		bad("%s has no gateway to %s", u.From, u.To)
	}
	if pic.Leads() == "" {
		bad("JetStream has no leader")
	}
	switch astray := pic.astray(); len(astray) {
	case 0:
	case 1:
		bad("account %s is not in line: %s", astray[0].Name, astray[0].Text())
	default:
		bad("%d accounts are not in line", len(astray))
	}
	if n := len(pic.Silent); n > 0 {
		r.Problems = append(r.Problems, fmt.Sprintf("%d of %d servers do not answer: %s", n, n+len(pic.Servers), nodeNames(pic.Silent)))
	}
	r.InLine = len(r.Problems) == 0
	return r
}

// verdict is the exit code.
func (r statusReport) verdict() error {
	if r.InLine {
		return nil
	}
	code := cli.Partial
	if r.broken {
		code = cli.Failed
	}
	return cli.Errorf(code, "'nscsetup doctor' says why it matters and what to do", "%s", strings.Join(r.Problems, "; "))
}

func nodeNames(nodes []seen.Node) string {
	var names []string
	for _, n := range nodes {
		names = append(names, n.Name)
	}
	return some(names)
}

// some is a list of names, cut where it becomes too long for a line.
func some(names []string) string {
	const most = 8
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// statusText is what `status` shows: a table for each region, and then what spans them.
func statusText(p *platform.Platform, pic *picture) string {
	var b strings.Builder
	for _, r := range p.File.Regions {
		pic.regionText(&b, r, r.Name == p.File.Home)
	}
	pic.strangers(&b, p.File)
	js := pic.JetStream
	if pic.Leads() == "" {
		b.WriteString("JetStream: no leader\n")
	} else {
		away := 0
		for _, peer := range js.Peers {
			if peer.Offline || !peer.Current {
				away++
			}
		}
		fmt.Fprintf(&b, "JetStream: led by %s, %d of %d servers current, %d streams\n", js.Leader, js.Size-away, js.Size, len(js.Streams))
	}
	if pic.Unasked != "" {
		fmt.Fprintf(&b, "services: not asked: %s\n", pic.Unasked)
	}
	pic.accountsText(&b)
	return b.String()
}

// regionText is one region: its servers, and its services.
func (p *picture) regionText(b *strings.Builder, r manifest.Region, home bool) {
	name := r.Name.String()
	if home {
		name += " (home)"
	}
	rows := [][]string{{name, "VERSION", "UP", "CLOCK", "CLIENTS", "GATEWAYS", "ACCOUNTS"}}
	for _, n := range r.Nodes {
		i := slices.IndexFunc(p.Servers, func(s seen.Server) bool { return s.Name == n.Name.String() && s.Region == r.Name })
		if i < 0 {
			rows = append(rows, []string{"  " + n.Name.String(), "does not answer", "", "", "", "", ""})
			continue
		}
		s := p.Servers[i]
		mark := ""
		if s.Name == p.JetStream.Leader {
			mark = " *"
		}
		rows = append(rows, []string{
			"  " + s.Name + mark, s.Version, age(p.At.Sub(s.Started)), clockText(s.Clock), fmt.Sprint(s.Connections), cmp.Or(strings.Join(s.Outbound, " "), "-"), p.has(s.Name),
		})
	}
	_ = cli.Table(b, rows) // a strings.Builder never fails to write
	if len(p.In(r.Name)) > 0 {
		for _, line := range p.servicesOf(r.Name) {
			b.WriteString("  " + line + "\n")
		}
	}
	b.WriteString("\n")
}

// has says how many accounts a server has in line.
func (p *picture) has(server string) string {
	total, bad, unsure := len(p.Accounts), 0, 0
	for _, a := range p.Accounts {
		switch {
		case a.InLine():
		case slices.Contains(a.Astray, server):
			bad++
		case len(a.Astray) < a.Behind+a.Lacking+a.Foreign+a.Unread:
			unsure++
		}
	}
	switch {
	case bad+unsure == 0:
		return fmt.Sprintf("%d in line", total)
	case unsure == 0:
		return fmt.Sprintf("%d of %d in line", total-bad, total)
	default:
		return fmt.Sprintf("%d to %d of %d in line", total-bad-unsure, total-bad, total)
	}
}

// servicesOf sums up the services of a region: a line for each kind.
func (p *picture) servicesOf(r ident.Region) []string {
	kinds := map[string][]seen.Service{}
	for _, s := range p.Services {
		if s.Region == r.String() {
			kinds[s.Name] = append(kinds[s.Name], s)
		}
	}
	var lines []string
	for _, kind := range []string{"issuer", "registrar"} {
		all := kinds[kind]
		if len(all) == 0 {
			if p.Services != nil {
				lines = append(lines, "no "+kind+" answers")
			}
			continue
		}
		lines = append(lines, serviceLine(kind, all))
	}
	return lines
}

func serviceLine(kind string, all []seen.Service) string {
	n := 0
	var versions, never []string
	var oldest time.Duration
	for _, s := range all {
		// An issuer has several doors, each an instance: those are counted that issue.
		if kind != "issuer" || slices.Contains(s.Subjects, subject.Issue) {
			n++
		}
		versions = append(versions, s.Version)
		never = append(never, s.Never...)
		d, _ := s.Oldest()
		oldest = max(oldest, d)
	}
	slices.Sort(versions)
	knows := "knowledge " + age(oldest) + " old"
	if len(never) > 0 {
		slices.Sort(never)
		knows = "never read " + some(slices.Compact(never))
	}
	if n != 1 {
		kind += "s"
	}
	return fmt.Sprintf("%d %s, version %s, %s", n, kind, strings.Join(slices.Compact(versions), " and "), knows)
}

// strangers are servers that no region of the file has.
func (p *picture) strangers(b *strings.Builder, f *manifest.File) {
	for _, s := range p.Servers {
		known := slices.ContainsFunc(f.Regions, func(r manifest.Region) bool {
			return r.Name == s.Region && slices.ContainsFunc(r.Nodes, func(n manifest.Node) bool { return n.Name.String() == s.Name })
		})
		if !known {
			fmt.Fprintf(b, "not in platform.yaml: server %s of cluster %s\n", s.Name, s.Cluster)
		}
	}
}

// accountsText counts the accounts that are in line, and names the others.
func (p *picture) accountsText(b *strings.Builder) {
	astray := p.astray()
	fmt.Fprintf(b, "accounts: %d of %d in line on %d servers", len(p.Accounts)-len(astray), len(p.Accounts), len(p.Servers))
	if len(astray) == 0 {
		fmt.Fprintf(b, ", unchanged since %s\n", stamp(p.changed()))
		return
	}
	b.WriteString("\n")
	const most = 20
	rows := [][]string{{"  ACCOUNT", "VERSION", "NOT IN LINE", "ON", "CHANGED"}}
	for i, a := range astray {
		if i == most {
			break
		}
		where := some(a.Astray)
		if off := a.Behind + a.Lacking + a.Foreign + a.Unread - len(a.Astray); off > 0 {
			where = strings.TrimPrefix(where+", "+fmt.Sprintf("%d not named", off), ", ")
		}
		rows = append(rows, []string{"  " + a.Name, fmt.Sprint(a.Version), a.Text(), where, stamp(a.Changed)})
	}
	_ = cli.Table(b, rows)
	if n := len(astray) - most; n > 0 {
		fmt.Fprintf(b, "  and %d more; --json has all\n", n)
	}
}

// clockText is by how much a clock differs, and how sure that is.
func clockText(c seen.Clock) string {
	if c.Bound == 0 {
		return "-"
	}
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	if c.Ahead.Abs() <= c.Bound {
		return fmt.Sprintf("within %.1f ms", ms(c.Bound))
	}
	return fmt.Sprintf("%+.1f ±%.1f ms", ms(c.Ahead), ms(c.Bound))
}

// age is a length of time in one unit.
func age(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", max(d, 0).Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", d/time.Hour)
	default:
		return fmt.Sprintf("%d d", d/(24*time.Hour))
	}
}

// stamp is a moment, in UTC: servers are in several time zones.
func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// watch goes on looking until ctx ends.
func (g *globals) watch(ctx context.Context, t *apply.Tool, every time.Duration) error {
	w := &watched{globals: g, tool: t, began: t.Now(), terminal: cli.Terminal(g.Out) && !g.json, states: map[string]state{}}
	for {
		began := t.Now()
		sctx, cancel := context.WithTimeout(ctx, surveyWait)
		pic, err := observe(sctx, t)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if err = nobody(ctx, err); !isUnavailable(err) {
				return err // it would be the same the next time
			}
		}
		if err := w.show(pic, err); err != nil {
			return err
		}
		// Looking costs the servers something: no more than a fifth of the time.
		if wait.For(ctx, max(every, 4*t.Now().Sub(began))) != nil {
			return nil
		}
	}
}

func isUnavailable(err error) bool {
	var e *cli.Error
	return errors.As(err, &e) && e.Code == cli.Unavailable
}

// watched is what --watch has seen so far.
type watched struct {
	*globals
	tool     *apply.Tool
	began    time.Time
	terminal bool
	states   map[string]state
	changes  []change
	shown    bool // everything was shown once; from then on changes are
	told     bool // that nobody answered at first
}

// state is how something is, and since when it was seen to be so.
type state struct {
	is    string
	since time.Time
}

// change is that something became other than it was.
type change struct {
	At   time.Time     `json:"at"`
	What string        `json:"what"`
	Is   string        `json:"is"`
	Was  string        `json:"was"`
	For  time.Duration `json:"for_ns"` // how long it was seen to be what it was
}

func (c change) String() string {
	return fmt.Sprintf("%s  %s: %s (before: %s, for %s)", stamp(c.At), c.What, c.Is, c.Was, age(c.For))
}

// keepChanges is how many changes a terminal shows.
const keepChanges = 10

// show shows one look: pic, or that nobody answered.
func (w *watched) show(pic *picture, err error) error {
	now := w.tool.Now()
	first := !w.shown
	changes := w.note(states(w.tool.Platform.File, pic), now)
	switch {
	case w.terminal:
		text := "nobody answers: " + fmt.Sprint(err) + "\n"
		if pic != nil {
			text = statusText(w.tool.Platform, pic)
		}
		return w.draw(text, now)
	case first && pic != nil:
		w.shown = true
		if w.json {
			return cli.JSON(w.Out, w.statusReport(w.tool.Platform, pic))
		}
		return cli.Print(w.Out, "%s", statusText(w.tool.Platform, pic))
	case first && len(w.states) == 1 && len(changes) == 0 && !w.told:
		// Nothing was seen yet, and so nothing changed: it is said once.
		w.told = true
		return cli.Print(w.Err, "%s  nobody answers: %v\n", stamp(now), err)
	}
	for _, c := range changes {
		var err error
		if w.json {
			err = cli.JSON(w.Out, c)
		} else {
			err = cli.Print(w.Out, "%s\n", c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// draw draws everything anew on a terminal.
func (w *watched) draw(text string, now time.Time) error {
	const top = "\x1b[H\x1b[2J"
	var b strings.Builder
	b.WriteString(top + text)
	fmt.Fprintf(&b, "\nwatched for %s", age(now.Sub(w.began)))
	if len(w.changes) == 0 {
		b.WriteString("; nothing changed\n")
	} else {
		b.WriteString("; what changed last:\n")
	}
	for _, c := range w.changes {
		since := ""
		if s := w.states[c.What]; s.since.Equal(c.At) {
			since = ", now for " + age(now.Sub(c.At))
		}
		fmt.Fprintf(&b, "  %s%s\n", c, since)
	}
	return cli.Print(w.Out, "%s", b.String())
}

// note takes new states and gives what changed.
func (w *watched) note(states map[string]string, now time.Time) []change {
	var out []change
	for what, is := range states {
		was, known := w.states[what]
		if known && was.is == is {
			continue
		}
		w.states[what] = state{is, now}
		if known {
			out = append(out, change{now, what, is, was.is, now.Sub(was.since)})
		}
	}
	slices.SortFunc(out, func(a, b change) int { return cmp.Compare(a.What, b.What) })
	w.changes = append(w.changes, out...)
	w.changes = w.changes[max(0, len(w.changes)-keepChanges):]
	return out
}

// states are how everything is that --watch tells of. Without a picture nobody answers,
// and of the rest nothing is known.
func states(f *manifest.File, pic *picture) map[string]string {
	if pic == nil {
		return map[string]string{"the platform": "nobody answers"}
	}
	out := map[string]string{"the platform": "answers"}
	for _, r := range f.Regions {
		for _, n := range r.Nodes {
			out["server "+n.Name.String()] = "answers"
		}
		for _, kind := range []string{"issuer", "registrar"} {
			if pic.Services != nil {
				n := 0
				for _, s := range pic.Services {
					if s.Region == r.Name.String() && s.Name == kind && (kind != "issuer" || slices.Contains(s.Subjects, subject.Issue)) {
						n++
					}
				}
				out[kind+"s of "+r.Name.String()] = fmt.Sprintf("%d answer", n)
			}
		}
		for _, to := range f.Regions {
			if to.Name != r.Name && len(pic.In(r.Name)) > 0 && len(pic.In(to.Name)) > 0 {
				out["gateways of "+r.Name.String()+" to "+to.Name.String()] = "all there"
			}
		}
	}
	for _, n := range pic.Silent {
		out["server "+n.Name] = "does not answer"
	}
	for _, u := range pic.Unlinked() {
		out["gateways of "+u.From+" to "+u.To] = "missing on " + some(u.Servers)
	}
	out["JetStream"] = "no leader"
	if l := pic.Leads(); l != "" {
		out["JetStream"] = "led by " + l
	}
	astray := pic.astray()
	out["accounts"] = fmt.Sprintf("%d of %d in line", len(pic.Accounts)-len(astray), len(pic.Accounts))
	for _, a := range pic.Accounts {
		// The text of one that is in line is the same for all.
		out["account "+a.Name] = "in line"
	}
	for _, a := range astray {
		out["account "+a.Name] = a.Text()
	}
	return out
}
