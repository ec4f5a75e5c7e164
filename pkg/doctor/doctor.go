// Package doctor finds what is wrong with a running platform, or will be: from facts, by
// rules. It is pure: it asks no server, reads no file and has no clock. Whoever gathers the
// facts (internal/survey, `nscsetup doctor`) says in them also what could not be found out,
// so that nothing is concluded from what was not seen.
package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/doctor/seen"
	"github.com/herald-nats/herald/pkg/ident"
)

// Severity is how bad a finding is.
type Severity int

// Severities, the worst last.
const (
	Info    Severity = iota // worth to know; nothing is wrong
	Warning                 // something will break, or hold less than it seems to
	Error                   // something is broken, or open to others
)

func (s Severity) String() string {
	switch s {
	case Info:
		return "info"
	case Warning:
		return "warning"
	default:
		return "error"
	}
}

// MarshalText implements encoding.TextMarshaler.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Severity) UnmarshalText(b []byte) error {
	for _, known := range []Severity{Info, Warning, Error} {
		if known.String() == string(b) {
			*s = known
			return nil
		}
	}
	return fmt.Errorf("%.20q is no severity: info, warning or error", b)
}

// Finding is one thing that was found.
type Finding struct {
	ID       string   `json:"id"` // what kind; docs/operating.md has each
	Severity Severity `json:"severity"`
	Where    []string `json:"where"` // such as "server ams-1", "region ams", "account CHAT"
	What     string   `json:"what"`
	Why      string   `json:"why"` // why it matters
	Do       string   `json:"do"`  // what to do about it
}

// Facts are what is known of a platform. What is nil or empty is not known, unless its
// field says otherwise.
type Facts struct {
	Now time.Time

	// Described is what the platform file says.
	Described Described
	// Seen is what servers say. nil: none answered.
	Seen *seen.Platform
	// Operator is the operator JWT of the platform folder.
	Operator seen.Operator
	// Spares are operator signing keys that nobody works with.
	Spares []string
	// Accounts are how servers stand to each account of the platform.
	Accounts []seen.Standing
	// System is who may do what in the system account.
	System System
	// Services are what issuers and registrars say. nil: they could not be asked.
	Services []seen.Service
	Roles    []Role
	// Credentials are user JWTs that programs use for long: of services, static users and
	// the guest.
	Credentials  []Credential
	Certificates []Certificate
}

// Described is what of a platform file matters here.
type Described struct {
	Home    ident.Region
	Regions []Region
	// MaxPayload is what servers are to take, in bytes; 0: not known.
	MaxPayload int
}

// Region is a region as it is described.
type Region struct {
	Name  ident.Region
	Nodes []Node
}

// Node is a server as it is described.
type Node struct {
	Name string
	Host string // where clients reach it
}

// System is the system account.
type System struct {
	// Want is what it should say, at most.
	Want *jwt.AccountClaims
	// Found are the different JWTs of it that servers hold, verified.
	Found []*jwt.AccountClaims
	// Connections are its users.
	Connections []seen.Connection
	// Static are the names of its static users.
	Static []string
}

// Role is a role of an account.
type Role struct {
	Account, Name string
	Own           bool // Herald's own services and tools use it
	Granted       bool // somebody may be given it
	Static        int  // static users that have it
	Template      jwt.UserPermissionLimits
	Limits        jwt.OperatorLimits // of the account
	Closed        bool               // the account is
}

// Credential is a user JWT in a file.
type Credential struct {
	Where   string // the file, below the platform folder
	Role    string // ACCOUNT/role
	Issued  time.Time
	Expires time.Time // zero: never
	Size    int       // bytes of the JWT
	Static  bool      // of a static user, who may have been meant to end
}

// Certificate is an X.509 certificate in a file.
type Certificate struct {
	Where     string // the file, below the platform folder
	Subject   string
	NotBefore time.Time
	NotAfter  time.Time
}

// NobodyAnswers is the id of the finding that there are no servers to look at.
const NobodyAnswers = "nobody-answers"

// Examine gives all findings, the worst first.
func Examine(f *Facts) []Finding {
	r := &report{Facts: f, kinds: kinds(), at: map[string]int{}}
	if f.Seen == nil {
		r.add(NobodyAnswers, Error, "the platform", "no server answered")
	} else {
		r.servers()
		r.clocks()
		r.versions()
		r.operators()
		r.links()
		r.listeners()
		r.jetStream()
		r.streams()
		r.regions()
		r.limits()
	}
	r.resolvers()
	r.standings()
	r.spares()
	r.system()
	r.services()
	r.roles()
	r.expiry()
	slices.SortStableFunc(r.out, func(a, b Finding) int { return cmp.Compare(b.Severity, a.Severity) })
	return r.out
}

// Worst is the severity of the worst finding; false where there is none.
func Worst(all []Finding) (Severity, bool) {
	worst := Info
	for _, f := range all {
		worst = max(worst, f.Severity)
	}
	return worst, len(all) > 0
}

// report collects findings.
type report struct {
	*Facts
	kinds map[string]Kind
	out   []Finding
	at    map[string]int // by id, severity and text, where in out
}

// add adds a finding. The same of several places is one finding.
func (r *report) add(id string, s Severity, where, format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	key := id + " " + s.String() + "\n" + what
	if i, ok := r.at[key]; ok {
		f := &r.out[i]
		if !slices.Contains(f.Where, where) {
			f.Where = append(f.Where, where)
		}
		return
	}
	k, ok := r.kinds[id]
	if !ok {
		panic("doctor: no kind of findings is called " + id)
	}
	r.at[key] = len(r.out)
	r.out = append(r.out, Finding{ID: id, Severity: s, Where: []string{where}, What: what, Why: k.Why, Do: k.Do})
}

// list is names for a sentence, cut where it becomes too long for one.
func list(names []string) string {
	const most = 8
	names = slices.Clone(names)
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// count says how many of a thing there are, and plural only which word it is.
func count(n int, one, many string) string { return fmt.Sprintf("%d %s", n, plural(n, one, many)) }

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// span is a length of time, as people say it.
func span(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d hours", d/time.Hour)
	case d >= 2*time.Minute:
		return fmt.Sprintf("%d minutes", d/time.Minute)
	default:
		return strconv.FormatFloat(d.Round(100*time.Millisecond).Seconds(), 'g', -1, 64) + " s"
	}
}

func server(name string) string      { return "server " + name }
func region(r ident.Region) string   { return "region " + r.String() }
func described(d Described) []string { return names(d.Regions) }
func names(regions []Region) []string {
	var out []string
	for _, r := range regions {
		for _, n := range r.Nodes {
			out = append(out, n.Name)
		}
	}
	return out
}
