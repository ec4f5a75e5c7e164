package invite

import "strings"

// Spell gives the words by which a code is read to somebody, those of the NATO alphabet, with
// a comma between groups: "Hotel India, Seven Kilo Three Mike, …". It tells the code, as
// Reveal does; it is "" of the zero value.
func Spell(c Code) string {
	var out strings.Builder
	gap := ""
	for _, r := range c.Reveal() {
		if r == '-' {
			gap = ", "
			continue
		}
		out.WriteString(gap)
		out.WriteString(word(r))
		gap = " "
	}
	return out.String()
}

// word is how a symbol is called, or a letter of the prefix.
func word(r rune) string {
	words := strings.Fields("Zero One Two Three Four Five Six Seven Eight Nine Alfa Bravo Charlie Delta Echo Foxtrot Golf Hotel Juliett Kilo Mike " +
		"November Papa Quebec Romeo Sierra Tango Victor Whiskey X-ray Yankee Zulu") // in the order of the alphabet
	if r == 'I' {
		return "India"
	}
	return words[value(r)]
}
