package nscsetup

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/apply"
	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/survey"
	"github.com/herald-nats/herald/pkg/doctor"
	"github.com/herald-nats/herald/pkg/doctor/seen"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/claims"
	"github.com/herald-nats/herald/pkg/platform/manifest"
)

type doctorOptions struct {
	failOn  string
	offline bool
}

func newDoctor(g *globals) *cobra.Command {
	var o doctorOptions
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Find what is wrong with the platform, or will be",
		Long: `doctor asks all servers and services, looks through this folder, and says what it
finds: what, where, why it matters and what to do. It changes nothing.

Among others: clocks that differ, operator JWTs that differ or are old, regions that
are not linked, single points of failure, rights in the system account beyond what is
needed, accounts that are not in line or near the payload limit, credentials and
certificates near their end, JetStream without a leader, roles that nobody can use.

A finding is an error (something is broken, or open to others), a warning (something
will break, or holds less than it seems to) or info.

Exit codes: 0 there is no error; 1 there is one. --fail-on warning makes it 1 for a
warning as well, --fail-on never always 0.`,
		Example: `  nscsetup doctor
  nscsetup doctor --fail-on warning --json
  nscsetup doctor --offline        # this folder alone`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runDoctor(cmd.Context(), g, o) },
	}
	f := c.Flags()
	f.StringVar(&o.failOn, "fail-on", doctor.Error.String(), "exit with 1 from this `severity` on: error, warning, info or never")
	f.BoolVar(&o.offline, "offline", false, "ask no server: look at this folder only")
	_ = c.RegisterFlagCompletionFunc("fail-on", cobra.FixedCompletions(failOn(), cobra.ShellCompDirectiveNoFileComp)) // there is such a flag
	return c
}

const never = "never"

func failOn() []string {
	return []string{doctor.Error.String(), doctor.Warning.String(), doctor.Info.String(), never}
}

func runDoctor(ctx context.Context, g *globals, o doctorOptions) error {
	var from doctor.Severity
	if o.failOn != never {
		if err := from.UnmarshalText([]byte(o.failOn)); err != nil {
			return cli.Errorf(cli.Usage, "it is one of "+strings.Join(failOn(), ", "), "--fail-on %s cannot be", o.failOn)
		}
	}
	p, err := g.look()
	if err != nil {
		return err
	}
	t := g.tool(p)
	facts, err := folderFacts(p, t.Now())
	if err != nil {
		return err
	}
	if !o.offline {
		sctx, cancel := context.WithTimeout(ctx, surveyWait)
		defer cancel()
		if err := servers(sctx, t, facts); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if facts.Accounts == nil {
		if facts.Accounts, err = heldAccounts(p); err != nil {
			return err
		}
	}
	found := doctor.Examine(facts)
	if o.offline {
		found = slices.DeleteFunc(found, func(f doctor.Finding) bool { return f.ID == doctor.NobodyAnswers })
	}
	r := doctorReport{Findings: found, Servers: 0, Accounts: len(facts.Accounts), Services: len(facts.Services)}
	if r.Findings == nil {
		r.Findings = []doctor.Finding{}
	}
	if facts.Seen != nil {
		r.Servers = len(facts.Seen.Servers)
	}
	if g.json {
		err = cli.JSON(g.Out, r)
	} else {
		err = cli.Print(g.Out, "%s", r.text())
	}
	if err != nil {
		return err
	}
	if worst, any := doctor.Worst(found); any && o.failOn != never && worst >= from {
		return cli.Errorf(cli.Failed, "each finding says what to do; docs/operating.md has more", "%s", r.counts())
	}
	return nil
}

// doctorReport is what `doctor --json` says.
type doctorReport struct {
	Findings []doctor.Finding `json:"findings"`
	// How many were examined.
	Servers  int `json:"servers"`
	Accounts int `json:"accounts"`
	Services int `json:"services"`
}

func (r doctorReport) counts() string {
	n := map[doctor.Severity]int{}
	for _, f := range r.Findings {
		n[f.Severity]++
	}
	var text []string
	for _, s := range []struct {
		of        doctor.Severity
		one, many string
	}{{doctor.Error, "error", "errors"}, {doctor.Warning, "warning", "warnings"}, {doctor.Info, "info", "infos"}} {
		switch n[s.of] {
		case 0:
		case 1:
			text = append(text, "1 "+s.one)
		default:
			text = append(text, fmt.Sprintf("%d %s", n[s.of], s.many))
		}
	}
	return cmp.Or(strings.Join(text, ", "), "nothing found")
}

func (r doctorReport) text() string {
	var b strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%-8s %s: %s\n", strings.ToUpper(f.Severity.String()), some(f.Where), f.What)
		fmt.Fprintf(&b, "  %-3s  %s\n  %-3s  %s\n  %-3s  %s\n\n", "why", f.Why, "do", f.Do, "id", f.ID)
	}
	fmt.Fprintf(&b, "%s; examined: %d servers, %d accounts, %d instances of services\n", r.counts(), r.Servers, r.Accounts, r.Services)
	return b.String()
}

// servers adds to the facts what servers and services say. That nobody answers is a fact,
// too.
func servers(ctx context.Context, t *apply.Tool, f *doctor.Facts) error {
	pic, err := observe(ctx, t)
	if errors.Is(err, survey.ErrNobody) || unreached(err) {
		return nil
	}
	if err != nil {
		return err
	}
	f.Seen, f.Accounts, f.Services = pic.Platform, pic.Accounts, pic.Services
	return systemFacts(ctx, t, f)
}

// systemFacts says who is in the system account, and what servers believe of it.
func systemFacts(ctx context.Context, t *apply.Tool, f *doctor.Facts) error {
	nc, err := t.Dial(ctx, platform.System, platform.RoleSetup)
	if err != nil {
		return err
	}
	defer nc.Close()
	system := t.Platform.Operator.System()
	memory, err := survey.Memory(ctx, nc, system, len(f.Seen.Views[0].Sees), 0)
	if err != nil {
		return err
	}
	found := map[string]bool{}
	for _, m := range memory {
		if found[m.Token] {
			continue
		}
		found[m.Token] = true
		// One that does not verify is foreign, which the accounts' standing tells.
		if c, err := t.Platform.Operator.VerifyAccount(m.Token); err == nil {
			f.System.Found = append(f.System.Found, c)
		}
	}
	f.System.Connections, err = survey.Connections(ctx, nc, []ident.AccountKey{system}, len(f.Seen.Views[0].Sees), 0)
	return err
}

// heldAccounts are the accounts as this folder last had them in force, where no server says
// how it stands to them.
func heldAccounts(p *platform.Platform) ([]seen.Standing, error) {
	var all []seen.Standing
	for _, h := range p.Held() {
		if h.Closed {
			continue
		}
		token, c, err := p.Claims(h)
		if err != nil {
			return nil, err
		}
		s := seen.Standing{Key: h.Key, Name: h.Name, Size: len(token), Changed: time.Unix(c.IssuedAt, 0)}
		if c.Expires > 0 {
			s.Expires = time.Unix(c.Expires, 0)
		}
		all = append(all, s)
	}
	return all, nil
}

// folderFacts are the facts that are in the platform folder.
func folderFacts(p *platform.Platform, now time.Time) (*doctor.Facts, error) {
	f := &doctor.Facts{Now: now, Described: doctor.Described{
		Home: p.File.Home, MaxPayload: int(cmp.Or(p.File.Servers.MaxPayload, manifest.DefaultMaxPayload)),
	}}
	for _, r := range p.File.Regions {
		d := doctor.Region{Name: r.Name}
		for _, n := range r.Nodes {
			host, _, err := net.SplitHostPort(n.Client)
			if err != nil {
				host = n.Client
			}
			d.Nodes = append(d.Nodes, doctor.Node{Name: n.Name.String(), Host: host})
		}
		f.Described.Regions = append(f.Described.Regions, d)
	}
	operator, err := jwt.DecodeOperatorClaims(p.Operator.Token())
	if err != nil {
		return nil, fmt.Errorf("reading the operator JWT: %w", err)
	}
	f.Operator = survey.Operator(operator)
	if f.Spares, err = spares(p.Dir); err != nil {
		return nil, err
	}
	users, err := platform.StaticUsers{Platform: p, Now: func() time.Time { return now }}.All()
	if err != nil {
		return nil, err
	}
	if err := roleFacts(p, users, f); err != nil {
		return nil, err
	}
	if f.Credentials, err = credentials(p, users); err != nil {
		return nil, err
	}
	f.Certificates, err = certificates(p.Dir)
	return f, err
}

// spares are the operator signing keys that nobody works with.
func spares(d platform.Dir) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(d.Operator(), "signing", "spare*.nk"))
	if err != nil {
		return nil, fmt.Errorf("looking for spare keys: %w", err)
	}
	var keys []string
	for _, file := range files {
		k, err := keystore.Load(file, keystore.Operator)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k.Public())
	}
	return keys, nil
}

// roleFacts says what roles there are, who may have them, and what the system account
// should be.
func roleFacts(p *platform.Platform, users []platform.StaticUser, f *doctor.Facts) error {
	keys, err := p.Keys()
	if err != nil {
		return err
	}
	static := map[manifest.RoleRef]int{}
	for _, u := range users {
		static[u.Of()]++
		if u.Account.String() == platform.System {
			f.System.Static = append(f.System.Static, u.Name.String())
		}
	}
	granted := map[manifest.RoleRef]bool{}
	for _, g := range p.File.Grants {
		granted[manifest.RoleRef{Account: g.Account, Role: g.Role}] = true
	}
	compiler := claims.New(p.File, keys)
	for _, a := range compiler.Accounts() {
		c, err := compiler.Account(a, 1)
		if err != nil {
			return err
		}
		if a.Name.String() == platform.System {
			f.System.Want = c
		}
		if a.Name.String() == platform.Door {
			continue // nobody is to do anything there
		}
		for _, r := range a.Roles {
			ref := manifest.RoleRef{Account: a.Name, Role: r.Name}
			f.Roles = append(f.Roles, doctor.Role{
				Account: a.Name.String(), Name: r.Name.String(),
				// Of Herald's accounts the chat alone is for people who are granted something.
				Own: a.Own() && a.Name.String() != platform.ChatIn, Granted: granted[ref], Static: static[ref],
				Template: claims.Template(r), Limits: c.Limits,
			})
		}
	}
	return nil
}

// credentials are the user JWTs in the folder. What was given away is not there.
func credentials(p *platform.Platform, users []platform.StaticUser) ([]doctor.Credential, error) {
	var all []doctor.Credential
	add := func(path, role string) error {
		c, err := readCredential(p.Dir, path, role)
		if err == nil {
			all = append(all, c)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	errs := []error{add(filepath.Join(p.Dir.Public(), platform.GuestFile), platform.Guest+"/"+platform.RoleGuest)}
	for _, r := range p.File.Regions {
		errs = append(errs,
			add(filepath.Join(p.Dir.Issuer(r.Name), platform.AuthCreds), platform.Auth+"/"+platform.RoleIssuer),
			add(filepath.Join(p.Dir.Registrar(r.Name), platform.LedgerCreds), platform.Ledger+"/"+platform.RoleRegistrar),
			add(filepath.Join(p.Dir.Registrar(r.Name), platform.ReaderCreds), platform.Readers+"/"+platform.RoleReader),
			add(filepath.Join(p.Dir.Registrar(r.Name), platform.SystemCreds), platform.System+"/"+platform.RoleRegistrar),
			add(filepath.Join(p.Dir.Registrar(r.Name), platform.HomeCreds), platform.Ledger+"/"+platform.RoleHome),
		)
	}
	named := len(all)
	for _, u := range users {
		errs = append(errs, add(p.Dir.CredsFile(u), u.Of().String()))
	}
	for i := range all[named:] {
		all[named+i].Static = true
	}
	return all, errors.Join(errs...)
}

// readCredential reads the JWT of a creds file, and leaves its seed alone.
func readCredential(d platform.Dir, path, role string) (doctor.Credential, error) {
	data, err := os.ReadFile(path) // #nosec G304 -- a file of the user's own platform
	if err != nil {
		return doctor.Credential{}, fmt.Errorf("reading a credential: %w", err)
	}
	token, err := jwt.ParseDecoratedJWT(data)
	if err != nil {
		return doctor.Credential{}, cli.Errorf(cli.Config, "restore the file from a backup of the platform folder", "%s has no user JWT", path)
	}
	c, err := jwt.DecodeUserClaims(token)
	if err != nil {
		return doctor.Credential{}, cli.Errorf(cli.Config, "restore the file from a backup of the platform folder", "%s has no user JWT", path)
	}
	out := doctor.Credential{Where: below(d, path), Role: role, Issued: time.Unix(c.IssuedAt, 0), Size: len(token)}
	if c.Expires > 0 {
		out.Expires = time.Unix(c.Expires, 0)
	}
	return out, nil
}

// below is a path as seen from the platform folder.
func below(d platform.Dir, path string) string {
	if rel, err := filepath.Rel(string(d), path); err == nil && filepath.IsLocal(rel) {
		return rel
	}
	return path
}

// certificates are those in the folder: of authorities and servers, and those that services
// and this tool show.
func certificates(d platform.Dir) ([]doctor.Certificate, error) {
	var all []doctor.Certificate
	for _, root := range []string{d.TLS(), d.Tool(), filepath.Join(string(d), "issuers"), filepath.Join(string(d), "registrars")} {
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // there is none, it was given away, or a run is just replacing it
			}
			if err != nil || e.IsDir() || filepath.Ext(path) != ".crt" {
				return err
			}
			found, err := readCertificates(d, path)
			all = append(all, found...)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("reading the certificates: %w", err)
		}
	}
	return all, nil
}

func readCertificates(d platform.Dir, path string) ([]doctor.Certificate, error) {
	data, err := os.ReadFile(path) // #nosec G304 -- a file of the user's own platform
	if err != nil {
		return nil, err
	}
	var all []doctor.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, cli.Errorf(cli.Config, "issue it anew with 'nscsetup tls issue'", "%s: %w", path, err)
		}
		all = append(all, doctor.Certificate{
			Where: below(d, path), Subject: cmp.Or(c.Subject.CommonName, "no name"), NotBefore: c.NotBefore, NotAfter: c.NotAfter,
		})
	}
	return all, nil
}
