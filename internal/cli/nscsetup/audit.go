package nscsetup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/inspect"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/manifest"
	"github.com/herald-nats/herald/pkg/wire"
)

func newAudit(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "audit",
		Short: "Read the records of what services did, and verify them",
		Long: `audit reads what the platform's services recorded, each region's in that region: every
credential that was issued or renewed, every refusal, and what was decided. Records are in
blocks that are signed by who wrote them and chained by hash, so that one that was removed,
altered or moved shows. They are kept for 90 days. docs/audit.md says what they hold.`,
		Example: `  nscsetup audit tail --follow
  nscsetup audit search --request 6vY3cUO5rZ0
  nscsetup audit verify`,
		Args: cobra.NoArgs,
		RunE: help,
	}
	c.AddCommand(newAuditTail(g), newAuditSearch(g), newAuditVerify(g), newAuditExport(g))
	return c
}

// recordRow is a record, and where it is.
type recordRow struct {
	Time    string        `json:"time"`
	Region  ident.Region  `json:"region"`
	Seq     uint64        `json:"seq"` // of its block, in the region's stream
	Writer  ident.UserKey `json:"writer"`
	Account string        `json:"account_name,omitempty"`
	audit.Record
}

// recordRows makes rows of blocks.
type recordRows struct {
	accounts map[ident.AccountKey]ident.Label
}

func recordsOf(p *platform.Platform) recordRows {
	r := recordRows{map[ident.AccountKey]ident.Label{}}
	for _, a := range p.Document.Accounts {
		r.accounts[a.Key] = a.Name
	}
	return r
}

func (r recordRows) row(seq uint64, rec audit.Record) recordRow {
	row := recordRow{Time: rec.Time().UTC().Format("2006-01-02T15:04:05.000Z"), Region: rec.Region, Seq: seq, Writer: rec.Issuer, Record: rec}
	if name, ok := r.accounts[rec.Account]; ok {
		row.Account = name.String()
	}
	return row
}

// line is a row for people.
func (r recordRow) line() string {
	rec := r.Record
	parts := []string{r.Time, r.Region.String(), string(rec.What)}
	add := func(format string, v ...any) { parts = append(parts, fmt.Sprintf(format, v...)) }
	if rec.Refused != "" {
		parts[2] += ":" + string(rec.Refused)
	}
	switch {
	case !rec.Identity.IsZero():
		add("%s", rec.Identity)
		if rec.Identity != ident.OpenIdentity(rec.User) && !rec.User.IsZero() {
			add("user=%s", rec.User)
		}
	case !rec.User.IsZero():
		add("user=%s", rec.User)
	}
	if !rec.Name.IsZero() {
		add("name=%s", rec.Name)
	}
	if role := r.role(); role != "" {
		add("role=%s", role)
	}
	if rec.Granted() {
		add("for=%s", manifest.Duration(rec.Life()))
	}
	if rec.Key != "" {
		add("key=%s version=%d", rec.Key, rec.Version)
	}
	if rec.Count > 0 {
		add("count=%d", rec.Count)
	}
	if rec.Host != "" {
		add("from=%s", rec.Host)
	}
	if rec.Request != "" {
		add("request=%s", rec.Request)
	}
	if rec.Why != "" {
		add("(%s)", rec.Why)
	}
	return inspect.Clean(strings.Join(parts, " "))
}

// role is ACCOUNT/ROLE, as far as it is known.
func (r recordRow) role() string {
	account := cmp.Or(r.Account, r.Asked.String())
	if account == "" && !r.Record.Account.IsZero() {
		account = r.Record.Account.String() // one that is no more
	}
	switch role := r.Role.String(); {
	case account == "" && role == "":
		return ""
	default:
		return cmp.Or(account, "-") + "/" + cmp.Or(role, "-")
	}
}

// all is everything that a row says, for people.
func (r recordRow) all() [][]string {
	rec := r.Record
	rows := [][]string{{"time", r.Time}, {"what", string(rec.What)}}
	add := func(what, v string) {
		if v != "" && v != "0" {
			rows = append(rows, []string{what, inspect.Clean(v)})
		}
	}
	moment := func(s int64) string {
		if s == 0 {
			return ""
		}
		return time.Unix(s, 0).UTC().Format(time.RFC3339)
	}
	add("asked for", rec.Door)
	add("request", rec.Request)
	add("identity", rec.Identity.String())
	add("user", rec.User.String())
	add("from", rec.Host)
	add("name", rec.Name.String())
	add("role", r.role())
	add("account", rec.Account.String())
	add("jti", rec.ID)
	add("issued", moment(rec.Issued))
	add("expires", moment(rec.Expires))
	add("proved", moment(rec.Proven))
	add("proved by", rec.By)
	add("met", rec.Met)
	add("server", rec.Server)
	add("connection", strconv.FormatUint(rec.Client, 10))
	add("refused", string(rec.Refused))
	add("name given", rec.Given.String())
	add("count", strconv.Itoa(rec.Count))
	add("key", rec.Key)
	add("version", strconv.FormatUint(rec.Version, 10))
	add("why", rec.Why)
	add("region", r.Region.String())
	add("writer", r.Writer.String())
	add("block", strconv.FormatUint(r.Seq, 10)+" of the region's stream")
	return rows
}

// show writes rows, as lines for people or as JSON lines.
func (g *globals) show(rows []recordRow) error {
	for _, r := range rows {
		if g.json {
			if err := cli.JSON(g.Out, r); err != nil {
				return err
			}
			continue
		}
		if err := cli.Print(g.Out, "%s\n", r.line()); err != nil {
			return err
		}
	}
	return nil
}

// auditing is what the commands that read records work with.
type auditing struct {
	*reader
	platform *platform.Platform
	rows     recordRows
	regions  []ident.Region
	behind   []ident.Region // whose records could not be read
	failed   error          // why the last of them could not
}

// auditing connects to read the records of one region, or of all.
func (g *globals) auditing(ctx context.Context, region string) (*auditing, error) {
	p, err := g.look()
	if err != nil {
		return nil, err
	}
	a := &auditing{platform: p, rows: recordsOf(p), regions: regionsOf(p)}
	if region != "" {
		only, err := known(p, region)
		if err != nil {
			return nil, err
		}
		a.regions = []ident.Region{only}
	}
	a.reader, err = g.reader(ctx, p, ident.Region{})
	return a, err
}

// each calls f for each region. One that cannot be read is noted; the others go on.
func (a *auditing) each(ctx context.Context, f func(ident.Region, *jetstream.Source) error) error {
	for _, region := range a.regions {
		err := f(region, jetstream.RecordsSource(a.nc, region))
		if err == nil {
			continue
		}
		if ctx.Err() != nil || !errors.Is(err, ledger.ErrUnavailable) {
			return err
		}
		a.behind, a.failed = append(a.behind, region), err
	}
	if len(a.behind) == len(a.regions) {
		return noLedger(ctx, a.failed)
	}
	return nil
}

// open gives a block's records; what is not believed is noted, and passed over.
func (a *auditing) open(s ledger.Stored) []recordRow {
	b, err := audit.Open(s.Subject, s.Data)
	if err != nil {
		a.refused = append(a.refused, fmt.Sprintf("%.80q", s.Subject))
		return nil
	}
	rows := make([]recordRow, 0, len(b.Content))
	for _, rec := range b.Content {
		rows = append(rows, a.rows.row(s.Seq, rec))
	}
	return rows
}

// verdict is an error if something could not be read, or is not believed.
func (a *auditing) verdict() error {
	if n := len(a.refused); n > 0 {
		return cli.Errorf(cli.Failed, "'nscsetup audit verify' says what is wrong with them",
			"%d blocks of records are not believed, and not shown; the first is under %s", n, a.refused[0])
	}
	if len(a.behind) > 0 {
		return cli.Errorf(cli.Partial, "are that region's servers up? what the others have is shown", "the records of %s could not be read: %w", join(a.behind), a.failed)
	}
	return nil
}

// byTime orders rows of several regions.
func byTime(rows []recordRow) {
	slices.SortStableFunc(rows, func(x, y recordRow) int {
		return cmp.Or(cmp.Compare(x.At, y.At), cmp.Compare(x.Region.String(), y.Region.String()), cmp.Compare(x.Seq, y.Seq))
	})
}

// newest are the last of some rows.
func newest(rows []recordRow, n int) []recordRow { return rows[max(0, len(rows)-n):] }

type tailOptions struct {
	region string
	n      int
	follow bool
}

func newAuditTail(g *globals) *cobra.Command {
	var o tailOptions
	c := &cobra.Command{
		Use:   "tail",
		Short: "Show the newest records",
		Long: `tail shows the newest records of all regions, or of one, oldest first: when, in which
region, what (a refusal with its code), who, under which name and role, for how long, from
which address, by which request, and why. With --json each is an object on a line of its
own, with everything that is recorded.

--follow goes on with what is recorded from then on, until Ctrl-C.

Exit codes: 1 if something there is not believed; 3 if the records of some region could not
be read; 5 if no server could be reached.`,
		Example: `  nscsetup audit tail
  nscsetup audit tail --follow --region ams
  nscsetup audit tail -n 100 --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runAuditTail(cmd.Context(), g, o) },
	}
	f := c.Flags()
	f.StringVar(&o.region, "region", "", "only what was recorded in this `region`")
	f.IntVarP(&o.n, "number", "n", 20, "how many records")
	f.BoolVarP(&o.follow, "follow", "f", false, "go on, until Ctrl-C")
	return c
}

// mostShown bounds how many records one command gives: they are sorted in memory.
const mostShown = 100_000

func runAuditTail(ctx context.Context, g *globals, o tailOptions) error {
	if o.n < 0 || o.n > mostShown {
		return cli.Errorf(cli.Usage, fmt.Sprintf("choose 0 to %d", mostShown), "--number %d", o.n)
	}
	a, err := g.auditing(ctx, o.region)
	if err != nil {
		return err
	}
	defer a.close()
	wake := make(chan struct{}, 1)
	if o.follow {
		if err := jetstream.RecordNews(a.nc, func(string) {
			select {
			case wake <- struct{}{}:
			default:
			}
		}); err != nil {
			return noLedger(ctx, err)
		}
	}
	var rows []recordRow
	at := map[ident.Region]uint64{}
	err = a.each(ctx, func(region ident.Region, s *jetstream.Source) error {
		some, last, err := a.tail(ctx, region, s, o.n)
		if err == nil {
			at[region] = last
		}
		rows = append(rows, some...)
		return err
	})
	if err != nil {
		return err
	}
	byTime(rows)
	if err := g.show(newest(rows, o.n)); err != nil {
		return err
	}
	if o.follow {
		return a.follow(ctx, g, at, wake)
	}
	return a.verdict()
}

// tail reads the last n records of a region, and where they end. Blocks have any number of
// records, so it goes back further until there are enough.
func (a *auditing) tail(ctx context.Context, region ident.Region, s *jetstream.Source, n int) (rows []recordRow, last uint64, err error) {
	what := "reading the records of " + region.String()
	first, end, err := s.Ends(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", what, err)
	}
	refused := len(a.refused)
	for back := uint64(64); ; back *= 8 {
		from := max(first.Seq, 1) - 1
		if end.Seq > back {
			from = max(from, end.Seq-back)
		}
		rows, a.refused = rows[:0], a.refused[:refused]
		last = max(end.Seq, from)
		if n > 0 {
			err = a.all(ctx, what, s, from, func(m ledger.Stored) {
				rows = append(rows, a.open(m)...)
				if len(rows) > 2*mostShown {
					rows = slices.Clone(newest(rows, n))
				}
				last = max(last, m.Seq)
			})
		}
		if err != nil || len(rows) >= n || from < max(first.Seq, 1) {
			return newest(rows, n), last, err
		}
	}
}

// followEvery is how often a region is asked for records that no news told of.
const followEvery = time.Second

// follow shows what is recorded from now on, until ctx ends. Regions that cannot be read
// are tried again.
func (a *auditing) follow(ctx context.Context, g *globals, at map[ident.Region]uint64, wake <-chan struct{}) error {
	a.tool.Progress = nil
	away := map[ident.Region]bool{}
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		var rows []recordRow
		for _, region := range a.regions {
			from, known := at[region]
			s := jetstream.RecordsSource(a.nc, region)
			var err error
			if !known { // what was there before is passed over, as if it had been shown
				from, err = s.Last(ctx)
			}
			if err == nil {
				at[region] = from
				err = a.all(ctx, "reading the records of "+region.String(), s, from, func(m ledger.Stored) {
					rows = append(rows, a.open(m)...)
					at[region] = m.Seq
				})
			}
			if ctx.Err() != nil {
				return nil //nolint:nilerr // it goes on until it is stopped
			}
			if err != nil != away[region] {
				away[region] = err != nil
				text := region.String() + ": its records are read again"
				if err != nil {
					text = region.String() + ": its records cannot be read now"
				}
				if err := cli.Print(g.Err, "%s\n", text); err != nil {
					return err
				}
			}
		}
		for _, s := range a.refused {
			if err := cli.Print(g.Err, "a block of records is not believed: it is under %s; see 'nscsetup audit verify'\n", s); err != nil {
				return err
			}
		}
		a.refused = nil
		byTime(rows)
		if err := g.show(rows); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-wake:
		}
	}
}

type searchOptions struct {
	region, identity, user, name, account, role, what, code, request, jti, host, key, since, until string
	limit                                                                                          int
}

func newAuditSearch(g *globals) *cobra.Command {
	var o searchOptions
	c := &cobra.Command{
		Use:   "search",
		Short: "Find records",
		Long: `search shows the records that are all of what the flags say, oldest first: lines as tail
shows them, or JSON lines. With --request or --jti, of which there are few, everything that
is recorded is shown. A request id is what clients show with an error, and what a user
quotes to support.

--account takes a name, also of one that is no more, or a key; of a refusal it is what was
asked for. --key takes a key of the ledger, such as name.alice, or the beginning of one, such
as accesskey. --host takes an address or a network. --since and --until take a length of
time before now, such as 24h or 7d, or a moment, such as 2026-11-20 or 2026-11-20T15:00:00Z.

Exit codes: 1 if nothing is found, or something there is not believed; 3 if the records of
some region could not be read; 5 if no server could be reached.`,
		Example: `  nscsetup audit search --request 6vY3cUO5rZ0
  nscsetup audit search --name alice --since 24h
  nscsetup audit search --what refuse --code no_grant --account ORDERS --json
  nscsetup audit search --what change --key accesskey --since 2026-11-01`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runAuditSearch(cmd.Context(), g, o) },
	}
	f := c.Flags()
	f.StringVar(&o.region, "region", "", "only what was recorded in this `region`")
	f.StringVar(&o.identity, "identity", "", "of this `identity`, such as oidc:corp:alice")
	f.StringVar(&o.user, "user", "", "of this user's public `nkey`")
	f.StringVar(&o.name, "name", "", "under this `name`")
	f.StringVar(&o.account, "account", "", "in this `account`")
	f.StringVar(&o.role, "role", "", "of this `role`, without its account")
	f.StringVar(&o.what, "what", "", "of these `kinds`: issue, renew, refuse, change, use, with commas between them")
	f.StringVar(&o.code, "code", "", "refused with this `code`")
	f.StringVar(&o.request, "request", "", "of the request with this `id`")
	f.StringVar(&o.jti, "jti", "", "of the credential with this `id`")
	f.StringVar(&o.host, "host", "", "from this `address` or network")
	f.StringVar(&o.key, "key", "", "of this `key` of the ledger, or those that it begins")
	f.StringVar(&o.since, "since", "", "since this `time` (default: all that is kept)")
	f.StringVar(&o.until, "until", "", "until this `time` (default: now)")
	f.IntVar(&o.limit, "limit", 1000, "show the newest of these, at most so many")
	return c
}

// sought tells of a record whether it is looked for.
type sought struct {
	since, until time.Time
	is           []func(recordRow) bool
}

func (s *sought) want(is func(recordRow) bool) { s.is = append(s.is, is) }

func (s *sought) match(r recordRow) bool {
	at := r.Record.Time()
	return !at.Before(s.since) && !at.After(s.until) && !slices.ContainsFunc(s.is, func(is func(recordRow) bool) bool { return !is(r) })
}

// wanted is a flag that a value has to equal once it is read.
func wanted[T comparable](s *sought, flag string, parse func(string) (T, error), of func(audit.Record) T) error {
	if flag == "" {
		return nil
	}
	v, err := parse(flag)
	if err != nil {
		return err
	}
	s.want(func(r recordRow) bool { return of(r.Record) == v })
	return nil
}

func (o searchOptions) sought(now time.Time) (*sought, error) {
	s := &sought{until: now.Add(ledger.MaxAhead)}
	text := func(v string) (string, error) { return v, nil }
	code := func(v string) (wire.Code, error) {
		if wire.Code(v).Number() == 0 {
			return "", cli.Errorf(cli.Usage, "docs/protocol.md lists them", "there is no code %.40q", v)
		}
		return wire.Code(v), nil
	}
	var err error
	if o.since != "" {
		if s.since, err = moment(o.since, now); err != nil {
			return nil, err
		}
	}
	if o.until != "" {
		if s.until, err = moment(o.until, now); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(
		wanted(s, o.identity, ident.ParseIdentity, func(r audit.Record) ident.Identity { return r.Identity }),
		wanted(s, o.user, ident.ParseUserKey, func(r audit.Record) ident.UserKey { return r.User }),
		wanted(s, o.name, ident.ParseName, func(r audit.Record) ident.Name { return r.Name }),
		wanted(s, o.role, ident.ParseLabel, func(r audit.Record) ident.Label { return r.Role }),
		wanted(s, o.code, code, func(r audit.Record) wire.Code { return r.Refused }),
		wanted(s, o.request, text, func(r audit.Record) string { return r.Request }),
		wanted(s, o.jti, text, func(r audit.Record) string { return r.ID }),
	); err != nil {
		return nil, err
	}
	if o.account != "" {
		s.want(func(r recordRow) bool {
			return r.Account == o.account || r.Asked.String() == o.account || r.Record.Account.String() == o.account
		})
	}
	if o.key != "" {
		s.want(func(r recordRow) bool {
			return r.Key == o.key || strings.HasPrefix(r.Key, strings.TrimSuffix(o.key, ".")+".")
		})
	}
	if o.host != "" {
		net, err := netip.ParsePrefix(o.host)
		if err != nil {
			var one netip.Addr
			if one, err = netip.ParseAddr(o.host); err != nil {
				return nil, cli.Errorf(cli.Usage, "write it as 192.0.2.1 or 192.0.2.0/24", "--host %.60q is no address", o.host)
			}
			net = netip.PrefixFrom(one.Unmap(), one.Unmap().BitLen())
		}
		s.want(func(r recordRow) bool {
			from, err := netip.ParseAddr(r.Host)
			return err == nil && net.Contains(from.Unmap())
		})
	}
	if o.what != "" {
		kinds := strings.Split(o.what, ",")
		for _, k := range kinds {
			if !slices.Contains([]audit.What{audit.Issue, audit.Renew, audit.Refuse, audit.Change, audit.Use}, audit.What(k)) {
				return nil, cli.Errorf(cli.Usage, "they are issue, renew, refuse, change and use", "--what: there is no kind %.20q", k)
			}
		}
		s.want(func(r recordRow) bool { return slices.Contains(kinds, string(r.What)) })
	}
	return s, nil
}

// moment reads a time: so long before now, a day, or a moment of one.
func moment(s string, now time.Time) (time.Time, error) {
	if d, err := manifest.ParseDuration(s); err == nil {
		return now.Add(-time.Duration(d)), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, cli.Errorf(cli.Usage, "write it as 24h, 7d, 2026-11-20 or 2026-11-20T15:00:00Z", "%.40q is no time", s)
}

// after gives the position from which on a region's stream has what was recorded since a
// moment; 0 is its beginning. What waited was stored later than it was recorded, never
// earlier, but for clocks that differ.
func after(ctx context.Context, s *jetstream.Source, since time.Time) (uint64, error) {
	if since.IsZero() {
		return 0, nil
	}
	return s.Before(ctx, since.Add(-ledger.MaxAhead))
}

func runAuditSearch(ctx context.Context, g *globals, o searchOptions) error {
	if o.limit < 1 || o.limit > mostShown {
		return cli.Errorf(cli.Usage, fmt.Sprintf("choose 1 to %d", mostShown), "--limit %d", o.limit)
	}
	s, err := o.sought(time.Now())
	if err != nil {
		return err
	}
	a, err := g.auditing(ctx, o.region)
	if err != nil {
		return err
	}
	defer a.close()
	var found []recordRow
	count := 0
	err = a.each(ctx, func(region ident.Region, src *jetstream.Source) error {
		from, err := after(ctx, src, s.since)
		if err != nil {
			return err
		}
		return a.all(ctx, "reading the records of "+region.String(), src, from, func(m ledger.Stored) {
			for _, r := range a.open(m) {
				if s.match(r) {
					found = append(found, r)
					count++
				}
			}
			if len(found) > 2*mostShown {
				byTime(found)
				found = slices.Clone(newest(found, o.limit))
			}
		})
	})
	if err != nil {
		return err
	}
	byTime(found)
	found = newest(found, o.limit)
	if err := g.showFound(found, o.request != "" || o.jti != ""); err != nil {
		return err
	}
	if count > len(found) {
		if err := cli.Print(g.Err, "%d match, and the newest %d are shown; --limit shows more\n", count, len(found)); err != nil {
			return err
		}
	}
	if err := a.verdict(); err != nil {
		return err
	}
	if len(found) == 0 {
		return cli.Errorf(cli.Failed, "records are kept for 90 days, and those that an issuer could not store wait there: see 'nscsetup status'", "no record is like that")
	}
	return nil
}

// showFound shows each in full where there are few.
func (g *globals) showFound(rows []recordRow, full bool) error {
	if g.json || !full {
		return g.show(rows)
	}
	for i, r := range rows {
		if i > 0 {
			if err := cli.Print(g.Out, "\n"); err != nil {
				return err
			}
		}
		if err := cli.Table(g.Out, r.all()); err != nil {
			return err
		}
	}
	return nil
}
