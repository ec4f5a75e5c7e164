package accesskey

// digits are in the order of ASCII, so that texts of one length sort as their numbers do.
const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// value62 is the value of a digit, -1 of anything else.
func value62(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'A' <= c && c <= 'Z':
		return int(c-'A') + 10
	case 'a' <= c && c <= 'z':
		return int(c-'a') + 36
	default:
		return -1
	}
}

// encode62 writes the big-endian number in n digits, which are enough for it.
func encode62(number []byte, n int) string {
	rest := append([]byte(nil), number...)
	out := make([]byte, n)
	for i := n - 1; i >= 0; i-- {
		rem := 0
		for j, b := range rest {
			rem = rem<<8 | int(b)
			rest[j], rem = byte(rem/62), rem%62 // #nosec G115 -- rem is below 62<<8, so that its 62nd part is below 256
		}
		out[i] = digits[rem]
	}
	return string(out)
}

// decode62 reads digits, which the caller has looked at, into a big-endian number of
// len(number) bytes, and tells whether it fits.
func decode62(number []byte, s string) bool {
	for i := range len(s) {
		carry := value62(s[i])
		for j := len(number) - 1; j >= 0; j-- {
			carry += int(number[j]) * 62
			number[j] = byte(carry) // #nosec G115 -- the low byte; the rest is carried
			carry >>= 8
		}
		if carry != 0 {
			return false
		}
	}
	return true
}
