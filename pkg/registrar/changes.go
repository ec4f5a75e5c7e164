package registrar

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
)

// ChangeOf makes a record of an entry that was decided or stated, by what is behind door. It
// says in words what the entry says, and nothing that is sealed.
func ChangeOf(e ledger.Entry, door string, now time.Time) audit.Record {
	r := audit.Record{What: audit.Change, At: now.UnixMilli(), Door: door, Key: e.Key.String(), Version: e.Version}
	_, id, _ := strings.Cut(r.Key, ".")
	var by, why string
	switch b := e.Body.(type) {
	case *ledger.Document:
		why = "platform document " + b.Public.Version.String()
		for _, r := range b.Rotations {
			if r.Version != e.Version {
				continue // it entered its stage by an earlier document
			}
			why += fmt.Sprintf("; the key of role %s/%s: %s (by %s) %s", r.Account, r.Role, r.Stage, r.By, r.Why)
		}
		for _, r := range b.SealRotations {
			if r.Version == e.Version {
				why += fmt.Sprintf("; %s: %s (by %s) %s", r.What(), r.Stage, r.By, r.Why)
			}
		}
	case ledger.Handed:
		why = fmt.Sprintf("%s for %d region keys", b.What(), len(b.Sealed))
		if e.Denies {
			why = "a key that is not used any more"
		}
	case ledger.Name:
		if n, err := ident.ParseName(strings.ReplaceAll(id, "=", ".")); err == nil {
			r.Name = n
		}
		r.Identity, r.User, why = b.Holder, b.User, "held until it is released"
		if b.Until != 0 {
			why = "held until " + stamp(b.Until)
		}
		if e.Denies {
			why = "released; it rests until " + stamp(b.Rests)
		}
	case ledger.Invite:
		why = fmt.Sprintf("to %s/%s, %d of %d came, until %s", b.Account, b.Role, len(b.Redeemed), b.Uses, stamp(b.Expires))
		if n := len(b.Redeemed); n > 0 {
			r.User = b.Redeemed[n-1].User
		}
		if e.Denies {
			why = "revoked; " + why
		}
	case ledger.AccessKey:
		if key, err := ident.ParseKeyID(id); err == nil {
			r.Identity = ident.KeyIdentity(key)
		}
		why = "of " + b.Owner
		switch {
		case e.Denies:
			why = "removed; " + why
		case b.Disabled:
			why = "disabled; " + why
		}
	case ledger.Revocation:
		by, why = b.By, cmp.Or(b.Why, "revoked")
	case ledger.Suspension:
		by, why = b.By, b.Why
		if e.Denies {
			why = "suspended; " + why
		} else {
			why = "suspended no more; " + why
		}
	}
	if by != "" {
		why += " (by " + by + ")"
	}
	r.Why = audit.Reason(strings.ToValidUTF8(why, "?"))
	return r
}

// RepairOf makes a record of an account that was put right on servers.
func RepairOf(s Standing, by []string, now time.Time) audit.Record {
	return audit.Record{
		What: audit.Change, At: now.UnixMilli(), Door: "repair", Key: ledger.BaseKey(s.Account).String(), Version: s.Version,
		Why: audit.Reason(strings.ToValidUTF8(fmt.Sprintf("servers held another, signed by %s; what is in force was pushed", strings.Join(by, ", ")), "?")),
	}
}

func stamp(seconds int64) string { return time.Unix(seconds, 0).UTC().Format(time.RFC3339) }
