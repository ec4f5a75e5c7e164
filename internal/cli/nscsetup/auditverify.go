package nscsetup

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/survey"
	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/inspect"
	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/ledger/jetstream"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/trust"
)

type verifyOptions struct {
	region string
	keys   []string
}

func newAuditVerify(g *globals) *cobra.Command {
	var o verifyOptions
	c := &cobra.Command{
		Use:   "verify [FILE...]",
		Short: "Find records that were removed, altered, moved, repeated or forged",
		Long: `verify reads all blocks of records of all regions, or of files that export wrote, and holds
them together: each has to be signed by who wrote it, to follow the one before it in its
writer's chain, and to be of a service of this platform, by a credential that the operator's
keys vouch for. Of a service that runs it asks how far its chain is, so that an end that was
removed shows too. Each finding says which blocks it is about, what it means and what to do.

A service whose role key was replaced since is not known any more by the platform document
in force: name the key that the role had before with --role-key, if you know it for yours.
A file is verified as far as it goes: whether it has all that there was up to its end, only
the region's stream says.

Exit codes: 1 if anything is found; 3 if the records of some region could not be read, or
it could not be asked how far chains are; 5 if no server could be reached; 8 if a file is
no export of this platform.`,
		Example: `  nscsetup audit verify
  nscsetup audit verify --region ams --json
  nscsetup audit verify november.audit`,
		RunE: func(cmd *cobra.Command, args []string) error { return runAuditVerify(cmd.Context(), g, o, args) },
	}
	f := c.Flags()
	f.StringVar(&o.region, "region", "", "only the records of this `region`")
	f.StringArrayVar(&o.keys, "role-key", nil, "a `key` that a role had before: AUTH/issuer=A…; may be given more than once")
	return c
}

// verified is what `audit verify --json` says.
type verified struct {
	Verified []verifiedPart `json:"verified"`
	Behind   []ident.Region `json:"behind,omitempty"`  // whose records could not be read
	Unasked  string         `json:"unasked,omitempty"` // why services could not be asked how far their chains are
}

// verifiedPart is a region's stream, or its blocks in a file.
type verifiedPart struct {
	File   string       `json:"file,omitempty"`
	Region ident.Region `json:"region"`
	First  uint64       `json:"first"` // messages of the region's stream
	Last   uint64       `json:"last"`
	audit.Report
}

func runAuditVerify(ctx context.Context, g *globals, o verifyOptions, files []string) error {
	p, err := g.look()
	if err != nil {
		return err
	}
	writers, err := writersOf(p, o.keys)
	if err != nil {
		return err
	}
	var out verified
	if len(files) > 0 {
		for _, path := range files {
			parts, err := verifyFile(p, writers, o.region, path)
			if err != nil {
				return err
			}
			out.Verified = append(out.Verified, parts...)
		}
	} else if out, err = g.verifyStreams(ctx, p, writers, o.region); err != nil {
		return err
	}
	if err := g.printVerified(out); err != nil {
		return err
	}
	switch {
	case slices.ContainsFunc(out.Verified, func(p verifiedPart) bool { return len(p.Findings) > 0 }):
		return cli.Silent(cli.Failed)
	case len(out.Behind) > 0:
		return cli.Errorf(cli.Partial, "are that region's servers up? what the others have is in order", "the records of %s could not be read", join(out.Behind))
	case out.Unasked != "":
		return cli.Errorf(cli.Partial, "is AUTH in line? see 'nscsetup status'; what is there is in order", "services could not be asked how far their chains are: %s", out.Unasked)
	}
	return nil
}

// verifyStreams verifies what regions have.
func (g *globals) verifyStreams(ctx context.Context, p *platform.Platform, w writers, region string) (verified, error) {
	var out verified
	a, err := g.auditing(ctx, region)
	if err != nil {
		return out, err
	}
	defer a.close()
	// First: what they say was stored then has to be there when it is read.
	living, err := g.living(ctx, p)
	if ctx.Err() != nil {
		return out, err
	}
	if err != nil {
		out.Unasked = err.Error()
	}
	err = a.each(ctx, func(of ident.Region, s *jetstream.Source) error {
		first, _, err := s.Ends(ctx)
		if err != nil {
			return err
		}
		v := audit.Verifier{Region: of, Verify: w.verify(of), From: first.Seq, Kept: jetstream.RecordsKept}
		for _, l := range living {
			if l.region == of {
				v.Living(l.chain, l.n)
			}
		}
		part := verifiedPart{Region: of, First: first.Seq}
		err = a.all(ctx, "verifying the records of "+of.String(), s, 0, func(m ledger.Stored) {
			if part.Last == 0 && m.Seq > first.Seq {
				// What is as old as records are kept may have gone since.
				if now, _, err := s.Ends(ctx); err == nil {
					part.First = max(first.Seq, min(now.Seq, m.Seq))
					v.From = part.First
				}
			}
			v.Add(m.Seq, m.Subject, m.Data)
			part.Last = m.Seq
		})
		if err != nil {
			return err
		}
		part.Report = v.Done(a.tool.Now())
		out.Verified = append(out.Verified, part)
		return nil
	})
	out.Behind = a.behind
	return out, err
}

// alive is what a living writer says of its chain.
type alive struct {
	region ident.Region
	chain  string
	n      uint64
}

// living asks services how far their chains are.
func (g *globals) living(ctx context.Context, p *platform.Platform) ([]alive, error) {
	ctx, cancel := context.WithTimeout(ctx, lookWait)
	defer cancel()
	nc, err := g.tool(p).Dial(ctx, platform.Admin, platform.RoleAdmin)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	services, err := survey.Services(ctx, nc, 0)
	if err != nil {
		return nil, err
	}
	var out []alive
	for _, s := range services {
		if region, err := ident.ParseRegion(s.Region); err == nil && s.Chain != "" {
			out = append(out, alive{region, s.Chain, s.Block})
		}
	}
	return out, nil
}

// writers knows who may write records.
type writers struct{ known *trust.Platform }

// writersOf is by the platform document in force, and by keys that roles had before, each
// as ACCOUNT/ROLE=KEY.
func writersOf(p *platform.Platform, before []string) (writers, error) {
	known := *p.Document
	known.Accounts = slices.Clone(known.Accounts)
	for _, arg := range before {
		role, text, ok := strings.Cut(arg, "=")
		account, name, ok2 := strings.Cut(role, "/")
		key, err := ident.ParseAccountKey(text)
		if !ok || !ok2 || err != nil {
			return writers{}, cli.Errorf(cli.Usage, "write it as AUTH/issuer=A…, with the public key that the role had", "--role-key %.80q is no key of a role", arg)
		}
		i := slices.IndexFunc(known.Accounts, func(a trust.Account) bool { return a.Name.String() == account })
		label, err := ident.ParseLabel(name)
		if err != nil || i < 0 || !known.Accounts[i].HasRole(label) {
			return writers{}, cli.Errorf(cli.Usage, "see 'nscsetup list roles'", "--role-key: there is no role %.80q", role)
		}
		known.Accounts[i].Roles = append(slices.Clone(known.Accounts[i].Roles), trust.Role{Name: label, Key: key})
	}
	return writers{&known}, nil
}

// verify is of those who write in a region. A credential is one of the moment at which the
// block was written: what has ended since was good then.
func (w writers) verify(region ident.Region) func(string, ident.UserKey, time.Time) ([]audit.What, error) {
	return func(token string, writer ident.UserKey, at time.Time) ([]audit.What, error) {
		u, err := w.known.VerifyUser(token, at)
		if err != nil {
			return nil, fmt.Errorf("its writer shows a credential that is not believed: %w", err)
		}
		if u.Key != writer {
			return nil, fmt.Errorf("its writer shows a credential of another: %s", u.Key)
		}
		if u.IssuedAt.After(at.Add(ledger.MaxAhead)) {
			return nil, fmt.Errorf("its writer shows a credential from later, %s", u.IssuedAt.UTC().Format(time.RFC3339))
		}
		c, err := jwt.DecodeUserClaims(token)
		if err != nil {
			return nil, fmt.Errorf("reading a user JWT: %w", err)
		}
		if !c.Tags.Contains(trust.TagRegion + region.String()) {
			return nil, fmt.Errorf("its writer is a %s/%s of another region", u.Account, u.Role)
		}
		switch u.Account.String() + "/" + u.Role.String() {
		case platform.Auth + "/" + platform.RoleIssuer:
			return []audit.What{audit.Issue, audit.Renew, audit.Refuse, audit.Use}, nil
		case platform.Readers + "/" + platform.RoleReader, platform.Ledger + "/" + platform.RoleSetup:
			return []audit.What{audit.Change}, nil
		}
		return nil, fmt.Errorf("its writer is a %s/%s, which writes no records", u.Account, u.Role)
	}
}

// meaning says to a person what a problem means, and what to do about it.
func meaning(p audit.Problem) string {
	switch p {
	case audit.Missing:
		return "blocks were there and are not: removed by who may change streams, or lost with disks. Compare with an export, and see who used the keys of LEDGER and of servers"
	case audit.Altered:
		return "its bytes are not what its writer signed: changed on a disk, or by who may write into the stream. Compare with an export or another replica's backup"
	case audit.Forged:
		return "it is not of a service of this platform, or not its to write. If the role's key was replaced since, name the old one with --role-key; otherwise somebody could write there who may not"
	case audit.Moved:
		return "the order is not the one in which it was written: somebody wrote the stream or the file anew"
	case audit.Repeated:
		return "it is there again: somebody stored it a second time. Nothing is lost; count it once"
	case audit.Forked:
		return "its writer's key signed two histories: the key was copied. Replace the service's credential, and trust neither"
	case audit.Unended:
		return "expected after a crash, or if the machine was lost: what its log says last should be there. Otherwise the end was removed"
	case audit.Dropped:
		return "its writer could not store records for so long that it ran out of room: what was granted then is in its log alone"
	}
	return "a newer nscsetup may know it"
}

func (g *globals) printVerified(v verified) error {
	if g.json {
		return cli.JSON(g.Out, v)
	}
	var b strings.Builder
	for _, p := range v.Verified {
		where := p.Region.String()
		if p.File != "" {
			where = p.File + ": " + where
		}
		fmt.Fprintf(&b, "%s: %d records in %d blocks of %d chains, messages %d to %d: ", inspect.Clean(where), p.Records, p.Blocks, p.Chains, p.First, p.Last)
		if len(p.Findings) == 0 {
			b.WriteString("in order\n")
			continue
		}
		fmt.Fprintf(&b, "%d findings\n", len(p.Findings))
		for _, f := range p.Findings {
			b.WriteString("  " + inspect.Clean(findingLine(f)) + "\n    " + meaning(f.Problem) + "\n")
		}
	}
	return cli.Print(g.Out, "%s", b.String())
}

// findingLine is a finding for people.
func findingLine(f audit.Finding) string {
	parts := []string{string(f.Problem) + ":"}
	add := func(format string, v ...any) { parts = append(parts, fmt.Sprintf(format, v...)) }
	if f.Seq != 0 {
		add("message %d", f.Seq)
	}
	switch f.First {
	case 0:
	case f.Last:
		add("block %d", f.First)
	default:
		add("blocks %d to %d", f.First, f.Last)
	}
	if f.Chain != "" {
		add("of chain %s", f.Chain)
	}
	if !f.Writer.IsZero() {
		add("of %s", f.Writer)
	}
	if f.At != 0 {
		add("at %s", time.UnixMilli(f.At).UTC().Format(time.RFC3339))
	}
	return strings.Join(parts, " ") + ": " + f.Why
}

type auditExportOptions struct {
	to, region, since string
	records           bool
}

func newAuditExport(g *globals) *cobra.Command {
	var o auditExportOptions
	c := &cobra.Command{
		Use:   "export",
		Short: "Write records to a file",
		Long: `export writes the blocks of all regions, or of one, to a new file: first a line that says
what it is and up to where it goes, then a JSON object for each block as it is stored, a
line each. 'nscsetup audit verify FILE' finds in it what it finds in the regions' streams.
With --records it writes the records alone, one JSON object a line, as search --json shows
them, for whatever collects logs; these are not signed.

The file is for its owner alone, since records say who was where; it is there as a whole or
not at all.

Exit codes: 1 if, with --records, something there is not believed; 4 if the file exists; 5 if
the records of some region could not be read.`,
		Example: `  nscsetup audit export --to november.audit
  nscsetup audit export --to sfo.audit --region sfo --since 30d
  nscsetup audit export --to records.jsonl --records --since 24h`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runAuditExport(cmd.Context(), g, o) },
	}
	f := c.Flags()
	f.StringVar(&o.to, "to", "", "the `file` to write; it must not exist")
	f.StringVar(&o.region, "region", "", "only what was recorded in this `region`")
	f.StringVar(&o.since, "since", "", "what was stored since this `time`, such as 30d or 2026-11-01 (default: all that is kept)")
	f.BoolVar(&o.records, "records", false, "records alone, without the blocks that they are in")
	return c
}

const (
	exportFormat = 1
	// maxLine bounds a line of an export: a block, whatever is in it, as JSON makes at most six
	// bytes of one. What is longer is no block, and is cut off where that shows.
	maxLine = 6*longest + 1<<12
	longest = audit.MaxBlock + 1
)

// exportHead is the first line of an export.
type exportHead struct {
	Format   int            `json:"herald_audit_export"`
	Operator string         `json:"operator"`
	At       int64          `json:"at"` // milliseconds: when it was begun
	Regions  []exportRegion `json:"regions"`
}

type exportRegion struct {
	Region ident.Region `json:"region"`
	First  uint64       `json:"first"` // 0: there is none
	Last   uint64       `json:"last"`
}

// exportLine is a block as it is stored.
type exportLine struct {
	Region  ident.Region `json:"region"`
	Seq     uint64       `json:"seq"`
	Subject string       `json:"subject"` // "<region>.<writer>"
	Data    string       `json:"data"`    // of what is too long for a block, as much as shows it
}

func runAuditExport(ctx context.Context, g *globals, o auditExportOptions) error {
	if o.to == "" {
		return cli.Errorf(cli.Usage, "name a file with --to", "it is not said where to write")
	}
	var since time.Time
	var err error
	if o.since != "" {
		if since, err = moment(o.since, time.Now()); err != nil {
			return err
		}
	}
	a, err := g.auditing(ctx, o.region)
	if err != nil {
		return err
	}
	defer a.close()
	n := 0
	err = newFile(o.to, func(w io.Writer) (err error) {
		n, err = a.export(ctx, w, since, o.records)
		return err
	})
	if errors.Is(err, fs.ErrExist) {
		return cli.Errorf(cli.Exists, "choose another --to; nothing was overwritten", "%w", err)
	}
	if err != nil {
		return err
	}
	what := "blocks"
	if o.records {
		what = "records"
	}
	if err := cli.Print(g.Err, "%d %s are in %s\n", n, what, cli.Line(o.to)); err != nil {
		return err
	}
	return a.verdict()
}

// export writes what regions have, up to where they are now, and tells how much it was. If
// one cannot be read it is an error: a part would look like the whole later.
func (a *auditing) export(ctx context.Context, w io.Writer, since time.Time, records bool) (int, error) {
	head := exportHead{Format: exportFormat, Operator: a.platform.Operator.Key(), At: time.Now().UnixMilli(), Regions: []exportRegion{}}
	of := map[ident.Region]exportRegion{}
	err := a.each(ctx, func(region ident.Region, s *jetstream.Source) error {
		first, last, err := s.Ends(ctx)
		if err != nil {
			return err
		}
		// What goes in the next moment, because it is as old as records are kept, is left out: the
		// first line of the file says where it begins before that is read.
		begin := a.tool.Now().Add(ledger.MaxAhead + time.Minute - jetstream.RecordsKept)
		if since.After(begin) {
			begin = since
		}
		from, err := after(ctx, s, begin)
		if err != nil {
			return err
		}
		has := exportRegion{Region: region}
		if from < last.Seq {
			has.First, has.Last = max(from+1, first.Seq), last.Seq
		}
		of[region], head.Regions = has, append(head.Regions, has)
		return nil
	})
	if err == nil && !records {
		err = cli.JSON(w, head)
	}
	n := 0
	write := func(v any) {
		if err == nil {
			err, n = cli.JSON(w, v), n+1
		}
	}
	if err != nil {
		return 0, err
	}
	rerr := a.each(ctx, func(region ident.Region, s *jetstream.Source) error {
		has := of[region]
		if has.First == 0 {
			return nil
		}
		return a.all(ctx, "reading the records of "+region.String(), s, has.First-1, func(m ledger.Stored) {
			switch {
			case m.Seq > has.Last:
			case !records:
				write(exportLine{region, m.Seq, m.Subject, m.Data[:min(len(m.Data), longest)]})
			default:
				for _, r := range a.open(m) {
					if !r.Record.Time().Before(since) {
						write(r)
					}
				}
			}
		})
	})
	if rerr == nil && len(a.behind) > 0 {
		rerr = noLedger(ctx, fmt.Errorf("the records of %s could not be read, and nothing is written: %w", join(a.behind), a.failed))
	}
	return n, errors.Join(err, rerr)
}

// newFile makes a file for its owner alone, with what fill writes, or none.
func newFile(path string, fill func(io.Writer) error) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s: %w", path, fs.ErrExist)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // made 0600
	if err != nil {
		return fmt.Errorf("creating the file: %w", err)
	}
	w := bufio.NewWriterSize(f, 1<<20)
	err = fill(w)
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Link(f.Name(), path) // which overwrites nothing, unlike a rename
	}
	if err != nil {
		err = fmt.Errorf("writing %s: %w", path, err)
	}
	return errors.Join(err, os.Remove(f.Name()))
}

// verifyFile verifies an export, each region by itself.
func verifyFile(p *platform.Platform, w writers, only, path string) ([]verifiedPart, error) {
	f, err := os.Open(path) // #nosec G304 -- the file that the user named
	if err != nil {
		return nil, fmt.Errorf("reading an export: %w", err)
	}
	defer func() { _ = f.Close() }() // it was read
	bad := func(format string, v ...any) error {
		return cli.Errorf(cli.Config, "name a file that 'nscsetup audit export' wrote, without --records", "%s: "+format, append([]any{path}, v...)...)
	}
	lines := bufio.NewScanner(f)
	lines.Buffer(make([]byte, 0, 1<<16), maxLine)
	var head exportHead
	if !lines.Scan() || strict(lines.Bytes(), &head) != nil || head.Format == 0 {
		return nil, bad("it is no export")
	}
	switch {
	case head.Format != exportFormat:
		return nil, bad("it is of format %d, and %d is known", head.Format, exportFormat)
	case head.Operator != p.Operator.Key():
		return nil, bad("it is of another platform, whose operator is %.60q", head.Operator)
	case head.At <= 0 || head.At > time.Now().Add(ledger.MaxAhead).UnixMilli() || len(head.Regions) > 1000:
		return nil, bad("its first line is out of shape")
	}
	var parts []*filePart
	of := map[ident.Region]*filePart{}
	for _, r := range head.Regions {
		if of[r.Region] != nil || r.Region.IsZero() {
			return nil, bad("its first line is out of shape")
		}
		part := &filePart{exportRegion: r, v: audit.Verifier{Region: r.Region, Verify: w.verify(r.Region), From: r.First}}
		of[r.Region], parts = part, append(parts, part)
	}
	for n := 2; lines.Scan(); n++ {
		var l exportLine
		err := strict(lines.Bytes(), &l)
		part := of[l.Region]
		switch {
		case err == nil && part != nil:
			part.v.Add(l.Seq, l.Subject, l.Data)
			part.last = max(part.last, l.Seq)
		case err == nil:
			return nil, bad("line %d is of a region that its first line does not name", n)
		case len(parts) == 0:
			return nil, bad("line %d is no block", n)
		default:
			// Which region's it was is not known; the gap shows in that one.
			parts[0].odd = append(parts[0].odd, audit.Finding{Problem: audit.Altered, Region: parts[0].Region, Why: fmt.Sprintf("line %d of the file is no block: %v", n, err)})
		}
	}
	if err := lines.Err(); err != nil {
		return nil, bad("it cannot be read: %w", err)
	}
	var out []verifiedPart
	for _, part := range parts {
		if only == "" || part.Region.String() == only {
			out = append(out, part.done(path, time.UnixMilli(head.At)))
		}
	}
	if len(out) == 0 {
		return nil, bad("it has nothing of that region")
	}
	return out, nil
}

// filePart is what a file has of a region.
type filePart struct {
	exportRegion
	v    audit.Verifier
	last uint64
	odd  []audit.Finding
}

func (f *filePart) done(path string, at time.Time) verifiedPart {
	out := verifiedPart{File: path, Region: f.Region, First: f.First, Last: f.last, Report: f.v.Done(at)}
	out.Findings = append(out.Findings, f.odd...)
	if f.last < f.Last {
		out.Findings = append(out.Findings, audit.Finding{
			Problem: audit.Missing, Region: f.Region, Seq: f.last + 1,
			Why: fmt.Sprintf("the file ends with message %d, and says that it goes up to %d", f.last, f.Last),
		})
	}
	return out
}

// strict decodes a line that has nothing else than what is known.
func strict(line []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("reading a line: %w", err)
	}
	if d.More() {
		return errors.New("something is behind its end")
	}
	return nil
}
