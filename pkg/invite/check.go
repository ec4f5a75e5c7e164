package invite

// alphabet is Crockford's base32, in the order of values.
const alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

// value is the value of what a person took for a symbol, -1 of what is none.
func value(r rune) int {
	switch {
	case r >= 0x80:
		return -1
	case 'a' <= r && r <= 'z':
		r -= 'a' - 'A'
	}
	switch r {
	case 'O':
		return 0
	case 'I', 'L':
		return 1
	}
	for v := range len(alphabet) {
		if rune(alphabet[v]) == r {
			return v
		}
	}
	return -1
}

// symbol is value of a byte that has one.
func symbol(c byte) byte { return byte(value(rune(c))) } // #nosec G115 -- below 32

// The field of 32 elements: polynomials over two elements of which the bits are the
// coefficients, modulo x^5+x^2+1. Addition is XOR; the powers of x, from 0 to 30, are all
// elements but 0.

// times multiplies two elements.
func times(a, b byte) byte {
	var p byte
	for ; b != 0; b >>= 1 {
		if b&1 != 0 {
			p ^= a
		}
		if a <<= 1; a&32 != 0 {
			a ^= 0b100101
		}
	}
	return p
}

// power gives x to the n, from 0.
func power(n int) byte {
	p := byte(1)
	for range n % 31 {
		p = times(p, 2)
	}
	return p
}

// over divides: the inverse of b, which is not 0, is b to the 30.
func over(a, b byte) byte {
	for range 30 {
		a = times(a, b)
	}
	return a
}

// syndromes are the two sums, of the symbols, and of the symbols times x to their place. No
// two places within 31 have the same power, hence no one or two wrong symbols leave both at
// zero.
func syndromes(c [symbols]byte) (sum, weighed byte) {
	for i := symbols - 1; i >= 0; i-- {
		sum ^= c[i]
		weighed = times(weighed, 2) ^ c[i]
	}
	return sum, weighed
}

// complete sets the last two symbols, so that both sums are zero.
func complete(c *[symbols]byte) {
	const y, z = symbols - checks, symbols - 1 // their places
	c[y], c[z] = 0, 0
	sum, weighed := syndromes(*c)
	// cy + cz = sum and x^y·cy + x^z·cz = weighed
	c[y] = over(weighed^times(sum, power(z)), power(y)^power(z))
	c[z] = sum ^ c[y]
}

// check tells whether both sums are zero; if not, which one symbol could be wrong, -1 if
// it needs more than one.
func check(c [symbols]byte) (at int, ok bool) {
	sum, weighed := syndromes(c)
	if sum == 0 && weighed == 0 {
		return -1, true
	}
	if sum != 0 && weighed != 0 {
		for i := range symbols {
			if times(sum, power(i)) == weighed {
				return i, false
			}
		}
	}
	return -1, false
}
