package nscsetup

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/pkg/certs"
	"github.com/herald-nats/herald/pkg/certs/certdir"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/platform/manifest"
)

func newTLS(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "tls",
		Short: "A small certificate authority for the platform",
		Long: `tls keeps two certificate authorities in operator/tls, one that signs for servers and
one that signs for clients, and the certificates of all servers. What is encrypted is
said by tls: in platform.yaml. Each command may be killed at any moment, and run
again: it then goes on. docs/tls.md tells the whole story, also of other authorities.`,
		Example: `  nscsetup tls init
  nscsetup tls issue
  nscsetup tls status`,
		Args: cobra.NoArgs,
		RunE: help,
	}
	c.AddCommand(newTLSInit(g), newTLSIssue(g), newTLSRotate(g), newTLSClient(g), newTLSStatus(g))
	return c
}

// tlsRules say what errors of certificates mean to a person.
func tlsRules() []cli.Rule {
	return []cli.Rule{
		{Is: natsconn.ErrTLS, Code: cli.Config, Hint: "compare 'nscsetup tls status' with what the servers have: operator/client/ca.pem says whom nscsetup believes"},
		{Is: certdir.ErrNone, Code: cli.Config, Hint: "make one with 'nscsetup tls init'"},
		{Is: certdir.ErrExists, Code: cli.Exists, Hint: "see 'nscsetup tls status'; 'nscsetup tls rotate --ca' replaces authorities while everything runs"},
		{Is: certdir.ErrBusy, Code: cli.Resource, Hint: "another 'nscsetup tls' is at work: wait for its end, then run this again"},
		{Is: certdir.ErrStage, Code: cli.Usage, Hint: "see 'nscsetup tls status' for the stage of the rotation"},
		{Is: certs.ErrHost, Code: cli.Config, Hint: "correct the address in platform.yaml; if the authority does not permit it, replace that with 'nscsetup tls rotate --ca --permit'"},
		{Is: certs.ErrExpired, Code: cli.Config, Hint: "replace the authority with 'nscsetup tls rotate --ca'"},
		{Is: platform.ErrNoCertificate, Code: cli.Config, Hint: "issue it with 'nscsetup tls issue' (before that, once, 'nscsetup tls init'), or put your own in place: docs/tls.md"},
		{Is: certdir.ErrBroken, Code: cli.Config, Hint: "see 'nscsetup tls status'; 'nscsetup tls issue' replaces damaged certificates; authorities come back from a backup of the platform folder"},
		{Is: certs.ErrInvalid, Code: cli.Config, Hint: "restore the file from a backup of the platform folder"},
	}
}

// lives are the flags for lengths of life.
type lives struct {
	leaf, authority string
	permit          []string
}

func (l *lives) leafFlag(c *cobra.Command, otherwise string) {
	c.Flags().StringVar(&l.leaf, "lifetime", "", "how long certificates live, such as 90d (default: "+otherwise+")")
}

func (l *lives) authorityFlags(c *cobra.Command, otherwise string) {
	c.Flags().StringVar(&l.authority, "ca-lifetime", "", "how long the authorities live, such as 3650d (default: "+otherwise+")")
	c.Flags().StringSliceVar(&l.permit, "permit", nil, "a DNS `name` or network that alone may be signed for, with all below it; repeat it for several")
}

// settings are what the flags say, and for the rest those that held before.
func (l *lives) settings(before certdir.Settings) (certdir.Settings, error) {
	for flag, v := range map[string]struct {
		text string
		to   *time.Duration
	}{"lifetime": {l.leaf, &before.Leaf}, "ca-lifetime": {l.authority, &before.Authority}} {
		if v.text == "" {
			continue
		}
		d, err := manifest.ParseDuration(v.text)
		if err != nil {
			return before, cli.Errorf(cli.Usage, "write it as 90d or 36h", "--%s: %w", flag, err)
		}
		*v.to = time.Duration(d)
	}
	if len(l.permit) > 0 {
		before.Permit = l.permit
	}
	return before, nil
}

// usage is the error that flags cannot be together with what there is.
func usage(err error) error {
	if errors.Is(err, certs.ErrInvalid) || errors.Is(err, certs.ErrHost) {
		return cli.Errorf(cli.Usage, "choose --lifetime between 1h and half of --ca-lifetime; --permit takes example.org, 10.0.0.7 or 10.0.0.0/8", "%w", err)
	}
	return err
}

func newTLSInit(g *globals) *cobra.Command {
	var l lives
	c := &cobra.Command{
		Use:   "init",
		Short: "Make the certificate authorities",
		Long: `init makes two certificate authorities in operator/tls, and writes the certificate of
the one that signs for servers where it is looked for: public/ca.pem for clients, and
ca.pem in the folder of each service. It issues nothing, and never replaces an
authority.

With --permit the authority for servers is good for these hosts alone, whoever has its
key: a bound for those who import it into browsers. Every address of platform.yaml
must be within it, later ones too.`,
		Example: `  nscsetup tls init
  nscsetup tls init --lifetime 30d --permit example.org --permit 10.0.0.0/8`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return runTLSInit(g, l) },
	}
	l.leafFlag(c, "90d")
	l.authorityFlags(c, "3650d")
	return c
}

func runTLSInit(g *globals, l lives) error {
	set, err := l.settings(certdir.Settings{})
	if err != nil {
		return err
	}
	p, want, err := g.certificates()
	if err != nil {
		return err
	}
	r, err := certdir.Init(p.Dir.TLS(), want, set, time.Now())
	if err != nil {
		return usage(err)
	}
	next := "set tls: in platform.yaml, and run 'nscsetup tls issue'"
	if p.File.TLS.Any() {
		next = "run 'nscsetup tls issue'"
	}
	return g.printTLS(p, want, "tls init", r, p.Dir.TLS()+" has the keys of the authorities: keep it offline, and back it up.\nNext: "+next+".\n")
}

// certificates opens the platform, and says what it needs of certificates.
func (g *globals) certificates() (*platform.Platform, certdir.Plan, error) {
	p, err := g.open()
	if err != nil {
		return nil, certdir.Plan{}, err
	}
	want, err := p.Dir.Certificates(p.File)
	return p, want, err
}

// chosen are the flags that say which certificates.
type chosen struct{ region, node string }

func (o *chosen) flags(g *globals, c *cobra.Command) {
	c.Flags().StringVar(&o.region, "region", "", "only those of this `region`, its services included")
	c.Flags().StringVar(&o.node, "node", "", "only those of this `node`")
	complete := func(names func(*platform.Platform) []string) cobra.CompletionFunc {
		return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			p, err := g.open()
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return names(p), cobra.ShellCompDirectiveNoFileComp
		}
	}
	// Neither fails: both flags are there.
	_ = c.RegisterFlagCompletionFunc("region", complete(func(p *platform.Platform) (all []string) {
		for _, r := range p.File.Regions {
			all = append(all, r.Name.String())
		}
		return all
	}))
	_ = c.RegisterFlagCompletionFunc("node", complete(func(p *platform.Platform) (all []string) {
		for _, r := range p.File.Regions {
			for _, n := range r.Nodes {
				all = append(all, n.Name.String())
			}
		}
		return all
	}))
}

// which is nil where all are meant.
func (o chosen) which(p *platform.Platform) (func(certdir.Leaf) bool, error) {
	if o.region == "" && o.node == "" {
		return nil, nil // all of them
	}
	var in ident.Region
	if o.region != "" {
		r, err := known(p, o.region)
		if err != nil {
			return nil, err
		}
		in = r
	}
	var dirs []string
	for _, r := range p.File.Regions {
		if !in.IsZero() && r.Name != in {
			continue
		}
		if o.node == "" {
			dirs = append(dirs, filepath.Join(p.Dir.TLS(), r.Name.String()), p.Dir.Issuer(r.Name), p.Dir.Registrar(r.Name))
			continue
		}
		for _, n := range r.Nodes {
			if n.Name.String() == o.node {
				dirs = append(dirs, p.Dir.NodeTLS(r.Name, n.Name))
			}
		}
	}
	if len(dirs) == 0 {
		return nil, cli.Errorf(cli.Usage, "the nodes are those of platform.yaml", "there is no node %.64q there", o.node)
	}
	return func(l certdir.Leaf) bool {
		for _, d := range dirs {
			if strings.HasPrefix(l.Path, d+string(filepath.Separator)) {
				return true
			}
		}
		return false
	}, nil
}

type issueOptions struct {
	chosen
	lives
	force bool
}

func newTLSIssue(g *globals) *cobra.Command {
	var o issueOptions
	c := &cobra.Command{
		Use:   "issue",
		Short: "Issue the certificates that are missing or due",
		Long: `issue issues the certificates of all listeners that tls: in platform.yaml encrypts, and
those of services where clients must have one: each that is missing, damaged, for
other addresses or of another authority than the one that signs, and each of which two
thirds of its life have passed. The others stay as they are, so it can run every day.

The certificates of a node are in operator/tls/<region>/<node>;
'nscsetup config render' puts them beside its configuration. Servers take new ones by
'nats-server --signal reload', without a restart.`,
		Example: `  nscsetup tls issue
  nscsetup tls issue --region ams --node ams-1 --force
  nscsetup tls issue && nscsetup config render --out conf --yes   # every week`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return runTLSIssue(g, "tls issue", o) },
	}
	o.flags(g, c)
	o.leafFlag(c, "as before")
	c.Flags().BoolVar(&o.force, "force", false, "issue also those that are good")
	return c
}

// openTLS opens the folder with the authorities, showing progress where work is long.
func (g *globals) openTLS(p *platform.Platform) (*certdir.Folder, error) {
	f, err := certdir.Open(p.Dir.TLS())
	if show := cli.Progress(g.IO); err == nil && show != nil {
		f.Each = func(done, all int) { show("certificates", done, all) }
	}
	return f, err
}

func runTLSIssue(g *globals, event string, o issueOptions) error {
	p, want, err := g.certificates()
	if err != nil {
		return err
	}
	w := certdir.Want{Force: o.force}
	if w.Which, err = o.which(p); err != nil {
		return err
	}
	set, err := o.settings(certdir.Settings{})
	if err != nil {
		return err
	}
	w.Life = set.Leaf
	f, err := g.openTLS(p)
	if err != nil {
		return err
	}
	defer f.Close()
	before := f.Unfinished()
	r, err := f.Issue(want, w, time.Now())
	if err != nil {
		if w.Life != 0 {
			err = usage(err)
		}
		return err
	}
	next := deployLeaves
	switch {
	case before:
		next = deploy(r.Stage, r)
	case len(want.Leaves) == 0:
		next = "platform.yaml encrypts nothing: set tls: there, and run this again.\n"
	case len(r.Issued) == 0 && len(r.Bundles) == 0:
		next = ""
	}
	return g.printTLS(p, want, event, r, next)
}

// What there is to do after each step.
const (
	deployLeaves = `Next: bring the certificates to their servers ('nscsetup config render'), and there
  nats-server --signal reload
`
	deployTrust = `Everybody has to trust the new authorities before they sign. Next:
  1. 'nscsetup config render', bring each node's folder to its server, and there
     nats-server --signal reload
  2. bring each service its folder (issuers/, registrars/)
  3. 'nscsetup context export', for all clients to join anew; or public/ca.pem
When all have it: 'nscsetup tls rotate --ca' again. 'nscsetup tls rotate --ca --back' undoes this.
`
	deployIssued = `The new authorities sign; the old ones are still trusted. Next:
  1. 'nscsetup config render', bring each node's folder to its server, and there
     nats-server --signal reload
  2. bring each service its folder (issuers/, registrars/), where clients show certificates
When all have it: 'nscsetup tls rotate --ca' again, which drops the old authorities.
'nscsetup tls rotate --ca --back' goes back to them.
`
	deployDropped = `The keys of the authorities that nobody is to trust any more are gone. Next, when
convenient, so that nobody does:
  1. 'nscsetup config render', bring each node's folder to its server, and there
     nats-server --signal reload
  2. bring each service its folder, and each client a new context
`
	deployBack = `The old authorities sign again; the new ones are still trusted. Next: bring all
certificates to their servers and services, as before. When all have them, go on with
'nscsetup tls rotate --ca', or end it with 'nscsetup tls rotate --ca --back'.
`
)

// deploy is what there is to do at a stage that was just reached.
func deploy(s certdir.Stage, r certdir.Report) string {
	switch {
	case s == certdir.Issued:
		return deployIssued
	case s == certdir.Trusted && len(r.Issued) > 0:
		return deployBack
	case s == certdir.Trusted:
		return deployTrust
	case r.Dropped != "":
		return deployDropped
	}
	return deployLeaves
}

type rotateOptions struct {
	issueOptions
	ca, back, yes bool
}

func newTLSRotate(g *globals) *cobra.Command {
	var o rotateOptions
	c := &cobra.Command{
		Use:   "rotate",
		Short: "Replace certificates, or the authorities themselves",
		Long: `rotate issues all certificates anew, now, from the authorities that there are: after a
key may have been seen.

rotate --ca replaces the authorities, in three stages, while everything runs. Each run
is one stage, and says what must be deployed before the next:

  1. new authorities are made, and trusted everywhere beside the old ones
  2. the new authorities sign: all certificates are issued anew
  3. the old authorities are dropped, and their keys removed

--back undoes a stage, until the old ones are dropped. A stage that was cut off is
finished by the next run, which begins no other one. Before stages 2 and 3 it asks
whether the stage before is deployed; --yes answers.`,
		Example: `  nscsetup tls rotate
  nscsetup tls rotate --node ams-1
  nscsetup tls rotate --ca
  nscsetup tls rotate --ca --back`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, flag := range []string{"back", "yes", "ca-lifetime", "permit"} {
				if cmd.Flags().Changed(flag) && !o.ca {
					return cli.Errorf(cli.Usage, "add --ca", "--%s is for the authorities", flag)
				}
			}
			if !o.ca {
				o.force = true
				return runTLSIssue(g, "tls rotate", o.issueOptions)
			}
			if o.region != "" || o.node != "" {
				return cli.Errorf(cli.Usage, "leave out --region and --node", "authorities are those of the whole platform")
			}
			return runRotateCA(cmd.Context(), g, o)
		},
	}
	o.flags(g, c)
	o.leafFlag(c, "as before")
	o.authorityFlags(c, "as before")
	f := c.Flags()
	f.BoolVar(&o.ca, "ca", false, "the authorities, by one stage")
	f.BoolVar(&o.back, "back", false, "go back by one stage")
	f.BoolVar(&o.yes, "yes", false, "what had to be deployed is deployed; do not ask")
	return c
}

func runRotateCA(ctx context.Context, g *globals, o rotateOptions) error {
	p, want, err := g.certificates()
	if err != nil {
		return err
	}
	f, err := g.openTLS(p)
	if err != nil {
		return err
	}
	defer f.Close()
	var set *certdir.Settings
	if o.leaf != "" || o.authority != "" || len(o.permit) > 0 {
		if f.Stage() != certdir.Steady || o.back {
			return cli.Errorf(cli.Usage, "leave them out: they are for the first stage", "the new authorities are made already")
		}
		s, err := o.settings(f.Settings())
		if err != nil {
			return err
		}
		set = &s
	}
	if err := g.mayRotate(f, o); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	change := func() (certdir.Report, error) { return f.Next(want, set, time.Now()) }
	if o.back {
		change = func() (certdir.Report, error) { return f.Back(want, time.Now()) }
	}
	r, err := change()
	if err != nil {
		if set != nil {
			err = usage(err)
		}
		return err
	}
	next := deploy(r.Stage, r)
	if r.Resumed {
		next = "An earlier change had been cut off. It is finished now, and nothing else was begun.\n" + next
	}
	return g.printTLS(p, want, "tls rotate", r, next)
}

// mayRotate asks before what cannot be undone, or what cuts off who has not heard of the
// stage before. A change that was cut off is finished without asking: it was answered.
func (g *globals) mayRotate(f *certdir.Folder, o rotateOptions) error {
	var show, question string
	switch s := f.Stage(); {
	case o.yes || f.Unfinished():
		return nil
	case !o.back && s == certdir.Trusted:
		show = "Certificates of the new authorities are believed by those alone who trust them already:\nservers with the new configuration, services with their new folders, clients with a new\ncontext.\n"
		question = "do all of them have it?"
	case !o.back && s == certdir.Issued:
		show = "This removes the old authorities and their keys. It cannot be undone. Servers that still\nshow a certificate of theirs are not believed any more.\n"
		question = "do all servers and services have their new certificates?"
	case o.back && s == certdir.Trusted:
		show = "This removes the new authorities and their keys. Whoever has a certificate of theirs\nis not believed any more.\n"
		question = "go back?"
	default:
		return nil
	}
	if !cli.Terminal(g.In) || !cli.Terminal(g.Err) {
		return cli.Errorf(cli.Usage, "when it is so, answer with --yes; nothing was changed", "%s there is nobody to ask", question)
	}
	return g.ask(func() error { return cli.Print(g.Err, "%s", show) }, question)
}

func newTLSClient(g *globals) *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "client NAME --out DIR",
		Short: "Issue a certificate for a client",
		Long: `client issues a certificate that a client shows where tls: in platform.yaml has clients:
mutual. It writes client.crt, client.key and ca.pem to DIR; run again it renews them
when that is due. The certificate says nothing about rights: these come with the
credential alone, and NAME is for people.`,
		Example: `  nscsetup tls client orders-worker --out worker
  nats --tlsca worker/ca.pem --tlscert worker/client.crt --tlskey worker/client.key --creds worker.creds sub '>'`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return runTLSClient(g, args[0], out) },
	}
	c.Flags().StringVar(&out, "out", "", "the `folder` to write to")
	_ = c.MarkFlagDirname("out") // the flag is there
	return c
}

func runTLSClient(g *globals, name, out string) error {
	if out == "" {
		return cli.Errorf(cli.Usage, "name a folder, such as --out worker", "--out is missing")
	}
	who, err := ident.ParseName(name)
	if err != nil {
		return err
	}
	p, _, err := g.certificates()
	if err != nil {
		return err
	}
	f, err := certdir.Open(p.Dir.TLS())
	if err != nil {
		return err
	}
	defer f.Close()
	if f.Unfinished() {
		return cli.Errorf(cli.Usage, "finish it first: 'nscsetup tls issue'", "a change of the authorities was cut off: %w", certdir.ErrStage)
	}
	l := certdir.Leaf{
		Name: who.String(), Path: filepath.Join(out, strings.TrimSuffix(certs.ClientFile, filepath.Ext(certs.ClientFile))),
		Request: certs.Request{Name: who.String(), Purpose: certs.Client},
	}
	want := certdir.Plan{
		Leaves:  []certdir.Leaf{l},
		Bundles: []certdir.Bundle{{Path: filepath.Join(out, certs.AuthoritiesFile), Of: certs.ForServers}},
	}
	r, err := f.Issue(want, certdir.Want{}, time.Now())
	if err != nil {
		return err
	}
	return g.printTLS(p, want, "tls client", r, "")
}

// tlsReport is what the commands say with --json. There is no secret in it.
type tlsReport struct {
	Event       string         `json:"event"`
	Stage       string         `json:"stage"`
	Resumed     bool           `json:"resumed"`
	Authorities []tlsAuthority `json:"authorities"`
	Issued      []tlsLeaf      `json:"issued"`
	Kept        int            `json:"kept"`
	Bundles     []string       `json:"bundles"`
	Dropped     string         `json:"dropped,omitempty"`
	Next        string         `json:"next"` // what there is to do now, for people
}

type tlsAuthority struct {
	Name        string    `json:"name"`
	For         string    `json:"for"`
	Signs       bool      `json:"signs"`
	Until       time.Time `json:"until"`
	Fingerprint string    `json:"sha256"`
	Permits     []string  `json:"permits,omitempty"`
}

type tlsLeaf struct {
	Name    string     `json:"name"`
	Path    string     `json:"path"`
	State   string     `json:"state,omitempty"` // good, or why it would be replaced
	Why     string     `json:"why,omitempty"`   // it was replaced
	Purpose string     `json:"purpose"`
	Hosts   []string   `json:"hosts,omitempty"`
	Issuer  string     `json:"issuer,omitempty"`
	Until   *time.Time `json:"until,omitempty"`
	Serial  string     `json:"serial,omitempty"`
}

func describeLeaf(l certdir.Leaf, c *certs.Certificate) tlsLeaf {
	t := tlsLeaf{Name: l.Name, Path: l.Path + ".crt", Purpose: string(l.Request.Purpose), Hosts: l.Request.Hosts}
	if c != nil {
		until := c.NotAfter()
		t.Issuer, t.Until, t.Serial, t.Hosts = c.Issuer(), &until, c.Serial(), c.Hosts()
	}
	return t
}

func describeAuthorities(s certdir.Status) []tlsAuthority {
	all := []tlsAuthority{}
	for _, a := range s.Authorities {
		c := a.Certificate
		all = append(all, tlsAuthority{c.Name(), string(a.For), a.Signs, c.NotAfter(), c.Fingerprint(), c.Permits()})
	}
	return all
}

func (g *globals) printTLS(p *platform.Platform, want certdir.Plan, event string, r certdir.Report, next string) error {
	s, err := certdir.Look(p.Dir.TLS(), want, time.Now())
	if err != nil {
		return err
	}
	rep := tlsReport{
		Event: event, Stage: string(r.Stage), Resumed: r.Resumed, Authorities: describeAuthorities(s),
		Issued: []tlsLeaf{}, Kept: r.Kept, Bundles: append([]string{}, r.Bundles...), Dropped: r.Dropped, Next: next,
	}
	for _, i := range r.Issued {
		l := describeLeaf(i.Leaf, &i.Certificate)
		l.Why = string(i.Why)
		rep.Issued = append(rep.Issued, l)
	}
	if g.json {
		return cli.JSON(g.Out, rep)
	}
	var errs []error
	if event == "tls init" || r.Stage != certdir.Steady || r.Dropped != "" {
		errs = append(errs, g.printAuthorities(rep.Authorities), cli.Print(g.Out, "\n"))
	}
	if len(rep.Issued) > 0 {
		rows := [][]string{{"CERTIFICATE", "WHY", "UNTIL"}}
		for _, l := range rep.Issued {
			rows = append(rows, []string{l.Name, l.Why, day(*l.Until)})
		}
		errs = append(errs, cli.Table(g.Out, rows), cli.Print(g.Out, "\n"))
	}
	done := []string{}
	if event != "tls init" {
		done = append(done, strconv.Itoa(len(rep.Issued))+" issued", strconv.Itoa(r.Kept)+" kept")
	}
	if len(rep.Bundles) > 0 {
		done = append(done, strconv.Itoa(len(rep.Bundles))+" files say whom to trust")
	}
	errs = append(errs, cli.Print(g.Out, "%s\n", strings.Join(done, ", ")))
	if next != "" {
		errs = append(errs, cli.Print(g.Err, "%s", next))
	}
	return errors.Join(errs...)
}

func (g *globals) printAuthorities(all []tlsAuthority) error {
	rows := [][]string{{"AUTHORITY", "FOR", "SIGNS", "UNTIL", "SHA-256"}}
	for _, a := range all {
		signs := "trusted only"
		if a.Signs {
			signs = "yes"
		}
		rows = append(rows, []string{a.Name, a.For, signs, day(a.Until), a.Fingerprint[:16] + "…"})
	}
	return cli.Table(g.Out, rows)
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

func newTLSStatus(g *globals) *cobra.Command {
	var code bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Show authorities and certificates, and when they end",
		Long: `status shows the authorities, how far a rotation of theirs is, and every certificate
that platform.yaml asks for: good, or why 'nscsetup tls issue' would replace it. It
looks at the platform folder; what servers show is for 'nscsetup doctor'.`,
		Example: `  nscsetup tls status
  nscsetup tls status --exit-code || nscsetup tls issue`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return runTLSStatus(g, code) },
	}
	c.Flags().BoolVar(&code, "exit-code", false, "end with 1 if something is not as it should be")
	return c
}

// tlsStatus is what `tls status --json` says.
type tlsStatus struct {
	Stage        string         `json:"stage"`
	Unfinished   bool           `json:"unfinished"`
	Authorities  []tlsAuthority `json:"authorities"`
	Certificates []tlsLeaf      `json:"certificates"`
	Problems     []string       `json:"problems"`
}

func runTLSStatus(g *globals, code bool) error {
	p, want, err := g.certificates()
	if err != nil {
		return err
	}
	now := time.Now()
	s, err := certdir.Look(p.Dir.TLS(), want, now)
	if err != nil {
		return err
	}
	rep := tlsStatus{Stage: string(s.Stage), Unfinished: s.Unfinished, Authorities: describeAuthorities(s), Certificates: []tlsLeaf{}, Problems: append([]string{}, s.Problems()...)}
	for _, a := range s.Authorities {
		if a.Certificate.Due(now) {
			rep.Problems = append(rep.Problems, a.Certificate.Name()+": due")
		}
	}
	if s.Unfinished {
		rep.Problems = append(rep.Problems, "a change was cut off; the next one finishes it")
	}
	for _, l := range s.Leaves {
		c := &l.Certificate
		if l.Why == certdir.Missing || l.Why == certdir.Damaged {
			c = nil
		}
		leaf := describeLeaf(l.Leaf, c)
		leaf.State = "good"
		if l.Why != certdir.Good {
			leaf.State = string(l.Why)
		}
		rep.Certificates = append(rep.Certificates, leaf)
	}
	if g.json {
		err = cli.JSON(g.Out, rep)
	} else {
		err = g.printTLSStatus(rep)
	}
	if err == nil && code && len(rep.Problems) > 0 {
		return cli.Errorf(cli.Failed, "run 'nscsetup tls issue'; a due authority is replaced by 'nscsetup tls rotate --ca'",
			"%d certificates or files are not as they should be: %s", len(rep.Problems), strings.Join(rep.Problems, "; "))
	}
	return err
}

func (g *globals) printTLSStatus(rep tlsStatus) error {
	errs := []error{g.printAuthorities(rep.Authorities), cli.Print(g.Out, "\n")}
	if len(rep.Certificates) > 0 {
		rows := [][]string{{"CERTIFICATE", "FOR", "ISSUER", "UNTIL", "STATE"}}
		for _, l := range rep.Certificates {
			until := "-"
			if l.Until != nil {
				until = day(*l.Until)
			}
			issuer := l.Issuer
			if issuer == "" {
				issuer = "-"
			}
			rows = append(rows, []string{l.Name, l.Purpose, issuer, until, l.State})
		}
		errs = append(errs, cli.Table(g.Out, rows), cli.Print(g.Out, "\n"))
	}
	stage := map[string]string{
		string(certdir.Steady):  "no rotation is under way",
		string(certdir.Trusted): "rotation: the new authorities are trusted; 'nscsetup tls rotate --ca' lets them sign",
		string(certdir.Issued):  "rotation: the new authorities sign; 'nscsetup tls rotate --ca' drops the old ones",
	}[rep.Stage]
	errs = append(errs, cli.Print(g.Out, "%s\n", stage))
	for _, p := range rep.Problems {
		// The table has those of certificates.
		of := func(l tlsLeaf) bool { return strings.HasPrefix(p, l.Name+": ") }
		if !slices.ContainsFunc(rep.Certificates, of) {
			errs = append(errs, cli.Print(g.Out, "! %s\n", p))
		}
	}
	return errors.Join(errs...)
}

// insistTLS is `up --tls`: it refuses a platform whose clients, or whose servers among each
// other, would not be encrypted.
func insistTLS(p *platform.Platform) error {
	t := p.File.TLS
	for _, m := range []struct {
		key string
		on  bool
	}{{"clients", t.Clients.On()}, {"routes", t.Routes.On()}, {"gateways", t.Gateways.On() || len(p.File.Regions) == 1}} {
		if !m.on {
			return cli.Errorf(cli.Config, "set tls: {clients: server, routes: mutual, gateways: mutual} there, then 'nscsetup tls init' and 'nscsetup tls issue'",
				"%s: tls: %s is off", p.Dir.File(), m.key)
		}
	}
	return p.Dir.HasTLS(p.File)
}
