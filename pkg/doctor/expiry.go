package doctor

import (
	"time"

	"github.com/herald-nats/herald/pkg/doctor/seen"
)

// endsWithin is how long before its end something is told of: a quarter of its life, so
// that whoever renews at half of it has failed by then, and at most a month.
const endsWithin = 30 * 24 * time.Hour

// expiry looks for what has ended, or will.
func (r *report) expiry() {
	for _, c := range r.Credentials {
		if c.Static && !c.Expires.IsZero() && !r.Now.Before(c.Expires) {
			r.add("credential-expired", Warning, c.Where, "the credential of a static user of %s ended at %s", c.Role, c.Expires.UTC().Format(time.DateTime))
			continue
		}
		r.ends("credential", c.Where, "the credential of "+c.Role, c.Issued, c.Expires)
	}
	for _, c := range r.Certificates {
		r.ends("certificate", c.Where, "the certificate of "+c.Subject, c.NotBefore, c.NotAfter)
		if r.Now.Before(c.NotBefore) {
			r.add("certificate-early", Error, c.Where, "the certificate of %s holds from %s", c.Subject, c.NotBefore.UTC().Format(time.DateTime))
		}
	}
	if r.Seen == nil {
		return
	}
	for _, s := range r.Seen.Servers {
		for _, l := range s.Listeners {
			r.ends("certificate", server(s.Name), "the certificate that it shows to "+shownTo(l.Kind), time.Time{}, l.CertUntil)
		}
	}
}

func shownTo(kind string) string {
	if kind == seen.Routes || kind == seen.Gateways {
		return "its " + kind
	}
	return kind
}

// ends looks at one thing that ends; a zero time never does. begin may be unknown.
func (r *report) ends(kind, where, what string, begin, end time.Time) {
	if end.IsZero() {
		return
	}
	near := endsWithin
	if !begin.IsZero() && end.After(begin) {
		near = min(near, end.Sub(begin)/4)
	}
	switch left := end.Sub(r.Now); {
	case left <= 0:
		r.add(kind+"-expired", Error, where, "%s ended at %s", what, end.UTC().Format(time.DateTime))
	case left < near:
		r.add(kind+"-ending", Warning, where, "%s ends in %s, at %s", what, span(left), end.UTC().Format(time.DateTime))
	}
}
