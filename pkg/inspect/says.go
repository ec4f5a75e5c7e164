package inspect

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/platform/plan"
	"github.com/herald-nats/herald/pkg/policy"
	"github.com/herald-nats/herald/pkg/trust"
)

// says puts what a JWT states into words, as far as its kind is known. What is out of
// shape is a problem of the report.
func (e *explainer) says(t *Token, d decoded) {
	if d.version <= 1 {
		return // laid out in another way; what all JWTs have was read
	}
	var lines []string
	var err error
	switch t.Kind {
	case KindOperator:
		lines, err = read(e, d, e.operator)
	case KindAccount:
		lines, err = read(e, d, e.account)
	case KindUser:
		lines, err = read(e, d, e.user)
	case KindActivation:
		lines, err = read(e, d, e.activation)
	case KindPlatform:
		lines, err = readBody(d, e.platform)
	case KindEntry:
		lines, err = readBody(d, e.entry)
	case KindEpoch:
		lines, err = readBody(d, func(b struct {
			Epoch uint32 `json:"epoch"`
		},
		) []string {
			return []string{"epoch: platform documents may be of epoch " + strconv.FormatUint(uint64(b.Epoch), 10)}
		})
	}
	if err != nil {
		e.problem("what the %s says is out of shape: %v", t.Kind, err)
	}
	for _, l := range lines {
		t.Says = append(t.Says, Clean(l))
	}
}

// errShape is the reason where a library says nothing that can be shown.
var errShape = errors.New("no reader takes it")

// read reads a payload as the library's claims, and says what is wrong with them.
func read[T any, C interface {
	*T
	jwt.Claims
}](e *explainer, d decoded, say func(C) []string) (lines []string, err error) {
	defer recovered(&lines, &err)
	c := C(new(T))
	if err := json.Unmarshal(d.json, c); err != nil {
		return nil, errShape
	}
	lines = say(c)
	var found jwt.ValidationResults
	c.Validate(&found)
	for _, issue := range found.Issues {
		if issue.Blocking {
			e.problem("%s", issue.Description)
		}
	}
	return lines, nil
}

// readBody reads the body of one of Herald's documents.
func readBody[T any](d decoded, say func(T) []string) (lines []string, err error) {
	defer recovered(&lines, &err)
	var n struct {
		Body T `json:"body"`
	}
	if err := json.Unmarshal(d.payload.Nats, &n); err != nil {
		return nil, errShape
	}
	return say(n.Body), nil
}

// recovered keeps what a library panics at from ending the program: jwt/v2 does at claims
// that no server would take, and what is read here is anybody's.
func recovered(lines *[]string, err *error) {
	if r := recover(); r != nil {
		*lines, *err = nil, errShape
	}
}

func (e *explainer) operator(c *jwt.OperatorClaims) []string {
	var out []string
	for _, k := range c.SigningKeys {
		out = append(out, line("signing key", e.named(k)))
	}
	out = append(out, line("system account", e.named(c.SystemAccount)))
	if c.StrictSigningKeyUsage {
		out = append(out, "strict: accounts are signed by signing keys alone")
	}
	for _, l := range [][2]string{{"account server", c.AccountServerURL}, {"least server version", c.AssertServerVersion}} {
		if l[1] != "" {
			out = append(out, line(l[0], l[1]))
		}
	}
	for _, u := range c.OperatorServiceURLs {
		out = append(out, line("service URL", u))
	}
	return out
}

func line(what, value string) string { return what + ": " + value }

// named is a key, and what it is.
func (e *explainer) named(public string) string {
	if is := e.known.is(public); is != "" {
		return public + " (" + is + ")"
	}
	return public
}

func (e *explainer) account(c *jwt.AccountClaims) []string {
	// jwt/v2 and who uses it take them for there.
	if slices.Contains(c.Exports, nil) || slices.Contains(c.Imports, nil) {
		e.problem("an export or an import of the account is null: no server takes it")
		c.Exports, c.Imports = nil, nil
	}
	names := plan.Names{Accounts: map[string]string{}}
	for _, i := range c.Imports {
		if other := e.known.account(i.Account); other != nil {
			names.Accounts[i.Account] = other.Name
		} else if is := e.known.is(i.Account); is != "" {
			names.Accounts[i.Account] = is
		}
	}
	var out []string
	if v := trust.BaseVersion(c.Tags); v > 0 {
		out = append(out, line("version of the base claims", strconv.FormatUint(v, 10)))
	}
	out = append(out, plan.Statements(c, names)...)
	for _, key := range sortedKeys(c.Revocations) {
		who := key
		if key == jwt.All {
			who = "everybody"
		}
		out = append(out, fmt.Sprintf("revoked: %s, what was issued up to %s", who, time.Unix(c.Revocations[key], 0).UTC().Format(time.RFC3339)))
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (e *explainer) user(c *jwt.UserClaims) []string {
	if c.HasEmptyPermissions() {
		return []string{"permissions and limits: those of the role that signed it"}
	}
	var out []string
	for _, l := range []struct {
		how  string
		list jwt.StringList
	}{
		{"may publish", c.Pub.Allow},
		{"may not publish", c.Pub.Deny},
		{"may subscribe to", c.Sub.Allow},
		{"may not subscribe to", c.Sub.Deny},
		{"connects as", c.AllowedConnectionTypes},
		{"connects from", jwt.StringList(c.Src)},
	} {
		for _, s := range l.list {
			out = append(out, line(l.how, s))
		}
	}
	if len(c.Pub.Allow)+len(c.Pub.Deny) == 0 {
		out = append(out, "may publish: everything")
	}
	if len(c.Sub.Allow)+len(c.Sub.Deny) == 0 {
		out = append(out, "may subscribe to: everything")
	}
	if c.Resp != nil {
		out = append(out, responses(c.Resp))
	}
	for _, h := range c.Times {
		out = append(out, fmt.Sprintf("hours: %s to %s %s", h.Start, h.End, c.Locale))
	}
	for _, l := range []struct {
		what string
		n    int64
	}{{"limit of subscriptions", c.Subs}, {"limit of payload", c.NatsLimits.Payload}, {"limit of data", c.Data}} {
		if l.n != jwt.NoLimit {
			out = append(out, line(l.what, strconv.FormatInt(l.n, 10)))
		}
	}
	if c.BearerToken {
		out = append(out, "bearer: who has the JWT needs no key")
	}
	if c.ProxyRequired {
		out = append(out, "connects through a proxy alone")
	}
	return out
}

// responses says what a right to answer is.
func responses(p *jwt.ResponsePermission) string {
	return fmt.Sprintf("may answer on whatever subject a request names, %d times within %s", p.MaxMsgs, p.Expires)
}

func (e *explainer) activation(c *jwt.ActivationClaims) []string {
	return []string{fmt.Sprintf("lets account %s import the %s %s", e.named(c.Subject), c.ImportType, c.ImportSubject)}
}

func (e *explainer) platform(p trust.Platform) []string {
	out := []string{
		line("platform", p.Name), line("operator", e.named(p.Operator)), line("version", p.Version.String()), line("home", p.Home.String()),
	}
	for _, r := range p.Regions {
		out = append(out, fmt.Sprintf("region %s: region key %s, clients at %v", r.Name, r.SealKey, r.URLs))
	}
	for _, a := range p.Accounts {
		out = append(out, fmt.Sprintf("account %s: key %s", a.Name, a.Key))
		for _, r := range a.Roles {
			text := fmt.Sprintf("role %s/%s: key %s", a.Name, r.Name, r.Key)
			if !r.Next.IsZero() {
				text += fmt.Sprintf(", then %s", r.Next)
			}
			if !r.Former.IsZero() {
				text += fmt.Sprintf(", before %s", r.Former)
			}
			if r.Open != nil {
				text += ", open to whoever asks"
			}
			out = append(out, text)
		}
	}
	for _, r := range p.Chat.Rooms {
		out = append(out, fmt.Sprintf("room %s: channels %v", r.Name, r.Channels))
	}
	if len(p.Ways) > 0 {
		out = append(out, line("ways to show who asks", strings.Join(p.Ways, ", ")))
	}
	for _, v := range p.Providers {
		out = append(out, fmt.Sprintf("provider %s: %s tokens of %s for %s", v.Name, strings.Join(v.Tokens, " and "), v.Issuer, strings.Join(v.Audiences, " or ")))
	}
	return out
}

// entryBody is what an entry of the ledger has, whatever it is about.
type entryBody struct {
	Version uint64          `json:"version"`
	Denies  bool            `json:"denies"`
	At      int64           `json:"at"` // ms since 1970
	Entry   json.RawMessage `json:"entry"`
}

func (e *explainer) entry(b entryBody) []string {
	out := []string{line("version of the entry", strconv.FormatUint(b.Version, 10))}
	if t := at(b.At / int64(time.Second/time.Millisecond)); t != nil {
		out = append(out, line("decided", t.Format(time.RFC3339)))
	}
	if b.Denies {
		out = append(out, "it says that this is gone, suspended or revoked")
	}
	var d struct {
		Policy *policy.Policy    `json:"policy"`
		Names  *ledger.NameRules `json:"names"`
	}
	if err := json.Unmarshal(b.Entry, &d); err != nil || d.Policy == nil {
		return out // its body tells the rest
	}
	for _, o := range d.Policy.Offers {
		out = append(out, fmt.Sprintf("grant: %s, for %s and at most %s", o, o.Default.Duration(), o.Longest.Duration()))
	}
	if d.Names != nil {
		out = append(out, fmt.Sprintf("names: lapse after %s, rest for %s", d.Names.Lapse, d.Names.Rest))
	}
	return out
}
