package certdir

import (
	"bytes"
	"errors"
	"io/fs"
	"slices"
	"time"

	"github.com/herald-nats/herald/pkg/certs"
)

// Status is how everything is.
type Status struct {
	Stage       Stage
	Unfinished  bool // a change was cut off; the next one finishes it
	Settings    Settings
	Authorities []AuthorityStatus
	Bundles     []BundleStatus
	Leaves      []LeafStatus
}

// AuthorityStatus is one of the authorities that are trusted.
type AuthorityStatus struct {
	Generation  string
	For         certs.Signers
	Signs       bool // and not only trusted
	Certificate certs.Certificate
}

// BundleStatus is a file with authorities: whether it names those that it should.
type BundleStatus struct {
	Bundle
	Why Reason // Good, Missing or Foreign
}

// LeafStatus is a certificate: why it is to be issued anew, if it is.
type LeafStatus struct {
	Leaf
	Why         Reason
	Certificate certs.Certificate // if Why is neither Missing nor Damaged
}

// Look tells how everything is, and changes nothing: while somebody else is at work it
// may tell of a moment in between. ErrNone if there is no authority.
func Look(path string, plan Plan, now time.Time) (Status, error) {
	f := &Folder{path: path}
	if err := f.load(); err != nil {
		return Status{}, err
	}
	s := Status{Stage: f.state.Stage, Unfinished: f.state.Doing, Settings: f.Settings()}
	all := []generation{f.signing}
	if f.beside != nil {
		all = append(all, *f.beside)
	}
	for i, g := range all {
		for _, of := range []certs.Signers{certs.ForServers, certs.ForClients} {
			s.Authorities = append(s.Authorities, AuthorityStatus{g.id, of, i == 0, g.ofs[of].Certificate()})
		}
	}
	for _, b := range plan.Bundles {
		st := BundleStatus{Bundle: b}
		switch data, err := readFile(b.Path); {
		case errors.Is(err, fs.ErrNotExist):
			st.Why = Missing
		case err != nil:
			return s, err
		case !bytes.Equal(data, f.trusted(b.Of).PEM()):
			st.Why = Foreign
		}
		s.Bundles = append(s.Bundles, st)
	}
	for _, l := range plan.Leaves {
		why, c, err := f.look(l, now)
		if err != nil {
			return s, err
		}
		s.Leaves = append(s.Leaves, LeafStatus{l, why, c})
	}
	return s, nil
}

// Problems are the certificates and bundles that are not as they should be, for people.
func (s Status) Problems() []string {
	var all []string
	for _, b := range s.Bundles {
		if b.Why != Good {
			all = append(all, b.Path+": "+string(b.Why))
		}
	}
	for _, l := range s.Leaves {
		if l.Why != Good {
			all = append(all, l.Name+": "+string(l.Why))
		}
	}
	slices.Sort(all)
	return all
}
