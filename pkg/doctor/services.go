package doctor

import (
	"slices"
	"strings"
	"time"

	"github.com/herald-nats/herald/pkg/doctor/seen"
	"github.com/herald-nats/herald/pkg/subject"
)

// staleAfter is how old what a service knows may be: it compares every second, and a copy
// in another region may take half a minute after a cut.
const staleAfter = time.Minute

// Names of services.
const (
	issuer    = "issuer"
	registrar = "registrar"
)

// services looks at issuers and registrars.
func (r *report) services() {
	if r.Services == nil {
		return
	}
	issuers, registrars := map[string]int{}, map[string]int{}
	versions, documents := map[string][]string{}, map[string][]string{}
	for _, s := range r.Services {
		where := "the " + s.Name + " of region " + s.Region
		switch {
		case s.Name == issuer && slices.Contains(s.Subjects, subject.Issue):
			issuers[s.Region]++
		case s.Name == registrar:
			registrars[s.Region]++
		}
		versions[s.Version] = append(versions[s.Version], s.Name+" in "+s.Region)
		if s.Document != "" {
			documents[s.Document] = append(documents[s.Document], s.Name+" in "+s.Region)
		}
		if len(s.Never) > 0 && r.Now.Sub(s.Started) >= staleAfter { // it has had time to
			r.add("service-stale", Error, where, "it never read %s", list(s.Never))
		} else if age, _ := s.Oldest(); age >= staleAfter {
			r.add("service-stale", Warning, where, "what it knows of %s is %s old", oldestOf(s), span(age))
		}
		if s.CopyFailing {
			r.add("service-no-copy", Warning, where, "it cannot write its copy of the ledger to its disk")
		}
	}
	for _, d := range r.Described.Regions {
		if r.Seen != nil && len(r.Seen.In(d.Name)) == 0 {
			continue // that the region is away is said elsewhere
		}
		home := d.Name == r.Described.Home
		switch issuers[d.Name.String()] {
		case 0:
			r.add("issuer-missing", Error, region(d.Name), "no issuer answers")
		case 1:
			r.add("issuer-single", Warning, region(d.Name), "one issuer answers")
		}
		switch n := registrars[d.Name.String()]; {
		case n == 0 && home:
			r.add("registrar-missing", Error, region(d.Name), "no registrar answers, and this is home: names and invites cannot be had")
		case n == 0:
			r.add("registrar-missing", Error, region(d.Name), "no registrar answers")
		case n == 1 && home:
			r.add("registrar-single", Warning, region(d.Name), "one registrar answers, and this is home: without it names and invites cannot be had")
		case n == 1:
			r.add("registrar-single", Warning, region(d.Name), "one registrar answers")
		}
	}
	r.different("service-mix", "versions", versions)
	r.different("document-mix", "platform documents", documents)
}

func oldestOf(s seen.Service) string {
	name, oldest := "", time.Duration(-1)
	for source, age := range s.Ages {
		if age > oldest || age == oldest && source < name {
			name, oldest = source, age
		}
	}
	return name
}

func (r *report) different(id, what string, by map[string][]string) {
	if len(by) < 2 {
		return
	}
	var text []string
	for value, who := range by {
		text = append(text, value+" ("+list(who)+")")
	}
	slices.Sort(text)
	r.add(id, Warning, "the services", "they have %d %s: %s", len(by), what, strings.Join(text, "; "))
}
