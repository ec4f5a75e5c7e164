package manifest

import (
	"strings"

	"github.com/herald-nats/herald/pkg/subject"
)

// index finds, among many patterns, those that may overlap one, without looking at the
// others. Two patterns overlap only if the words of the one before its first wildcard
// begin the other's, and most begin differently.
type index struct {
	at    map[string][]int // by the words before the first wildcard
	under map[string][]int // by each beginning of them that is shorter
}

func (x *index) add(s string, i int) {
	if x.at == nil {
		x.at, x.under = map[string][]int{}, map[string][]int{}
	}
	start := startOf(s)
	x.at[start] = append(x.at[start], i)
	for start != "" {
		start = shorter(start)
		x.under[start] = append(x.under[start], i)
	}
}

// near calls f for each pattern that may overlap s, until it says false.
func (x *index) near(s string, f func(i int) bool) {
	start := startOf(s)
	for _, i := range x.under[start] {
		if !f(i) {
			return
		}
	}
	for {
		for _, i := range x.at[start] {
			if !f(i) {
				return
			}
		}
		if start == "" {
			return
		}
		start = shorter(start)
	}
}

// shorter is without the last word.
func shorter(start string) string { return start[:max(strings.LastIndexByte(start, '.'), 0)] }

// startOf is a pattern's words before its first wildcard.
func startOf(s string) string {
	at := 0
	for word := range strings.SplitSeq(s, ".") {
		if word == "*" || word == ">" {
			return strings.TrimSuffix(s[:at], ".")
		}
		at += len(word) + 1
	}
	return s
}

// overlapping gives for each pattern the first one before it that overlaps it, or -1.
func overlapping(all []string) []int {
	first := make([]int, len(all))
	var x index
	for i, s := range all {
		first[i] = -1
		x.near(s, func(j int) bool {
			if (first[i] < 0 || j < first[i]) && subject.Overlaps(s, all[j]) {
				first[i] = j
			}
			return true
		})
		x.add(s, i)
	}
	return first
}
