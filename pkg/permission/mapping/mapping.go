// Package mapping says what an account's mappings make of a subject that somebody
// publishes to. Servers map first, and then ask whether the user may publish to what came
// out, so it goes before pkg/permission. The functions in a mapping ($1, {{partition(3,1)}}
// and so on) are nats-server's own; what it chooses by chance is given as all that it may
// choose (nats-server 2.15.2, Account.AddWeightedMappings and selectMappedSubject).
package mapping

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/herald-nats/herald/pkg/subject"
)

// ErrMany: chance decides between more subjects than are told one by one.
var ErrMany = errors.New("it is mapped to more subjects than can be told")

// most is how many outcomes are told.
const most = 256

// Outcome is one thing that a subject may become.
type Outcome struct {
	// Subject is what it becomes. It is empty where servers drop the message: where weights
	// that name the subject itself are less than a hundred together.
	Subject string
	// Source is the mapping that does it; empty where none does.
	Source string
	// Percent is of how many of a hundred messages, where Source is the one that is taken and
	// in this cluster. Of a function that gives a number by chance each number has it all.
	Percent int
	// Cluster is where; empty: in every one that no other outcome of Source names.
	Cluster string
}

// Of gives what a subject may become, at least one thing. Of mappings that overlap, servers
// take whichever they come upon first, each server another: what they all make of it is
// given, by source, then by cluster. A mapping that servers refuse maps nothing.
//
// The error wraps ErrMany.
func Of(all jwt.Mapping, subj string) ([]Outcome, error) {
	var out []Outcome
	for _, source := range slices.Sorted(maps.Keys(all)) {
		if !takes(string(source), subj) {
			continue
		}
		of, err := one(string(source), all[source], subj)
		if err != nil {
			return nil, err
		}
		if out = append(out, of...); len(out) > most {
			return nil, ErrMany
		}
	}
	if len(out) == 0 {
		return []Outcome{{Subject: subj, Percent: 100}}, nil
	}
	return out, nil
}

// takes tells whether a mapping is for a subject. Where it has no wildcard it is compared
// as it is.
func takes(source, subj string) bool {
	return source == subj || subject.HasWildcard(source) && server.SubjectMatchesFilter(subj, source)
}

// one is what one mapping makes of a subject: nothing if servers refuse it.
func one(source string, to []jwt.WeightedMapping, subj string) ([]Outcome, error) {
	itself := slices.ContainsFunc(to, func(w jwt.WeightedMapping) bool { return string(w.Subject) == source })
	groups := map[string][]jwt.WeightedMapping{"": nil} // by cluster
	for _, w := range to {
		if w.Subject == "" || server.ValidateMapping(source, string(w.Subject)) != nil {
			return nil, nil
		}
		groups[w.Cluster] = append(groups[w.Cluster], w)
	}
	var out []Outcome
	for _, cluster := range slices.Sorted(maps.Keys(groups)) {
		left := 100
		for _, w := range groups[cluster] {
			weight := int(w.GetWeight())
			left -= weight
			subjects, err := becomes(source, string(w.Subject), subj)
			if err != nil {
				return nil, err
			}
			for _, s := range subjects {
				out = append(out, Outcome{s, source, weight, cluster})
			}
		}
		switch {
		case left < 0:
			return nil, nil
		case left == 0:
		case itself:
			out = append(out, Outcome{"", source, left, cluster})
		default:
			out = append(out, Outcome{subj, source, left, cluster})
		}
	}
	return out, nil
}

// byChance is a function that gives one of so many numbers, the first of them 0.
var byChance = regexp.MustCompile(`{{\s*[rR]andom\s*\(\s*(\d+)\s*\)\s*}}`)

// becomes is what one destination makes of a subject: several things where chance has a
// part in it.
func becomes(source, to, subj string) ([]string, error) {
	all := []string{to}
	for byChance.MatchString(all[0]) {
		var next []string
		for _, t := range all {
			at := byChance.FindStringSubmatchIndex(t)
			n, err := strconv.Atoi(t[at[2]:at[3]])
			if err != nil || n > most || n*len(all) > most {
				return nil, fmt.Errorf("%q: %w", to, ErrMany)
			}
			for i := range max(n, 1) {
				next = append(next, t[:at[0]]+strconv.Itoa(i)+t[at[1]:])
			}
		}
		all = next
	}
	var subjects []string
	for _, t := range all {
		tr, err := server.NewSubjectTransform(source, t)
		if err != nil {
			return nil, fmt.Errorf("mapping %q to %q: %w", source, to, err)
		}
		subjects = append(subjects, tr.TransformTokenizedSubject(strings.Split(subj, ".")))
		if !subject.HasWildcard(source) {
			// A mapping without wildcards sees no words if a server comes upon it first:
			// {{partition(n)}} is of nothing then.
			subjects = append(subjects, tr.TransformTokenizedSubject(nil))
		}
	}
	slices.Sort(subjects)
	return slices.Compact(subjects), nil
}
