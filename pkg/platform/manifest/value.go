package manifest

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
)

const day = 24 * time.Hour

// durationRule is how lengths of time are written.
const durationRule = "a length of time is written as 500ms, 30s, 15m, 1h30m or 7d"

// ParseDuration accepts what time.ParseDuration does, without a sign, and whole days
// (d) before it: 7d, 1d12h, 90m, 1.5h. Nothing at all is no length of time.
func ParseDuration(s string) (Duration, error) {
	bad := fmt.Errorf("%.64q is not a length of time: %s", s, durationRule)
	var d time.Duration
	rest := s
	if days, after, ok := strings.Cut(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 32)
		if err != nil || n > uint64(math.MaxInt64/day) {
			return 0, bad
		}
		d, rest = time.Duration(n)*day, after
	}
	if rest != "" {
		more, err := time.ParseDuration(rest)
		if err != nil || rest[0] < '0' || rest[0] > '9' || more > math.MaxInt64-d {
			return 0, bad
		}
		d += more
	}
	if d == 0 {
		return 0, bad
	}
	return Duration(d), nil
}

// String is the shortest way to write it, in days, hours, minutes and so on.
func (d Duration) String() string {
	if d <= 0 {
		return time.Duration(d).String()
	}
	days, rest := time.Duration(d)/day, time.Duration(d)%day
	var s string
	if days > 0 {
		s = strconv.FormatInt(int64(days), 10) + "d"
	}
	if rest == 0 {
		return s
	}
	t := rest.String()
	if strings.HasSuffix(t, "m0s") {
		t = t[:len(t)-len("0s")]
	}
	if strings.HasSuffix(t, "h0m") {
		t = t[:len(t)-len("0m")]
	}
	return s + t
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; see ParseDuration.
func (d *Duration) UnmarshalText(b []byte) (err error) {
	*d, err = ParseDuration(string(b))
	return err
}

// sizeRule is how sizes are written.
const sizeRule = "a size is written as a number of bytes, or with KiB, MiB, GiB or TiB, such as 64KiB"

// units of sizes, the largest first.
func units() []struct {
	name  string
	shift uint
} {
	return []struct {
		name  string
		shift uint
	}{{"TiB", 40}, {"GiB", 30}, {"MiB", 20}, {"KiB", 10}, {"B", 0}}
}

// ParseSize accepts a whole number, without a sign or a leading zero, of bytes, B, KiB,
// MiB, GiB or TiB. KB and the like are refused: to some they are 1000 bytes.
func ParseSize(s string) (Size, error) {
	digits, shift := s, uint(0)
	for _, u := range units() {
		if rest, ok := strings.CutSuffix(s, u.name); ok {
			digits, shift = rest, u.shift
			break
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || strconv.FormatInt(n, 10) != digits || n < 0 || n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("%.64q is not a size: %s", s, sizeRule)
	}
	return Size(n << shift), nil
}

// String is the shortest way to write it.
func (s Size) String() string {
	for _, u := range units() {
		if u.shift > 0 && s > 0 && s%(1<<u.shift) == 0 {
			return strconv.FormatInt(int64(s>>u.shift), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// MarshalText implements encoding.TextMarshaler.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; see ParseSize.
func (s *Size) UnmarshalText(b []byte) (err error) {
	*s, err = ParseSize(string(b))
	return err
}

// ParseRoleRef accepts ACCOUNT/ROLE.
func ParseRoleRef(s string) (RoleRef, error) {
	account, role, ok := strings.Cut(s, "/")
	if !ok {
		return RoleRef{}, fmt.Errorf("%.80q is not a role: a role is named as ACCOUNT/ROLE", s)
	}
	a, aerr := ident.ParseLabel(account)
	r, rerr := ident.ParseLabel(role)
	if err := errors.Join(aerr, rerr); err != nil {
		return RoleRef{}, fmt.Errorf("%.80q is not a role: a role is named as ACCOUNT/ROLE, each 1 to 32 of A-Z, a-z, 0-9, _ and -", s)
	}
	return RoleRef{a, r}, nil
}

// IsZero tells whether no role is named.
func (r RoleRef) IsZero() bool { return r == RoleRef{} }

// String is ACCOUNT/ROLE, or nothing for the zero value.
func (r RoleRef) String() string {
	if r.IsZero() {
		return ""
	}
	return r.Account.String() + "/" + r.Role.String()
}

// MarshalText implements encoding.TextMarshaler.
func (r RoleRef) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; see ParseRoleRef.
func (r *RoleRef) UnmarshalText(b []byte) (err error) {
	*r, err = ParseRoleRef(string(b))
	return err
}
