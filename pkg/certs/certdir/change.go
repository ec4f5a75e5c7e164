package certdir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/herald-nats/herald/pkg/certs"
)

// Report is what a change did.
type Report struct {
	Stage Stage
	// Resumed: an earlier change had been cut off, and was finished. Next and Back then do
	// nothing else.
	Resumed bool
	Issued  []Made
	Kept    int      // certificates that were good as they were
	Bundles []string // files that name other authorities than before
	Dropped string   // the generation whose keys are gone
}

// Made is a certificate that was issued.
type Made struct {
	Leaf        Leaf
	Why         Reason
	Certificate certs.Certificate
}

// Init makes the authorities, in a folder that is made if it is missing, and writes the
// plan's bundles. Where there are authorities already it changes nothing (ErrExists), unless
// an Init was cut off there, which it finishes.
func Init(path string, plan Plan, set Settings, now time.Time) (Report, error) {
	return initWith(path, disk{}, plan, set, now)
}

func initWith(path string, d disk, plan Plan, set Settings, now time.Time) (Report, error) {
	s, err := set.encode()
	if err != nil {
		return Report{}, err
	}
	if err := d.folder(path, 0o700); err != nil {
		return Report{}, err
	}
	release, err := lock(path)
	if err != nil {
		return Report{}, err
	}
	defer release()
	f := &Folder{path: path, disk: d, release: release}
	if _, err := os.Stat(filepath.Join(path, stateFile)); err == nil {
		if err := f.load(); err != nil {
			return Report{}, err
		}
		if f.state.Stage != Steady || !f.state.Doing || f.state.Dropping != "" {
			return Report{}, fmt.Errorf("%s: %w", path, ErrExists)
		}
		return f.complete(plan, now)
	}
	if err := f.adopt(plan, s, now); err != nil {
		return Report{}, err
	}
	r, err := f.complete(plan, now)
	r.Resumed = false
	return r, err
}

// adopt makes the first generation and the state. What is left of an Init that was killed
// before there was a state is used: if in truth the state was lost, its keys are those
// that everybody trusts.
func (f *Folder) adopt(plan Plan, set settings, now time.Time) error {
	before, err := f.found()
	if err != nil {
		return err
	}
	if len(before) == 0 {
		for _, b := range plan.Bundles {
			if _, err := os.Lstat(b.Path); !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%s is there: %w", b.Path, ErrExists)
			}
		}
	}
	id, err := f.prepare(plan.Name, set, now)
	if err != nil {
		return err
	}
	if len(before) > 0 && !slices.Contains(before, id) {
		return fmt.Errorf("%s has authorities of before, and no %s that says which of them sign: %w", f.path, stateFile, ErrBroken)
	}
	return f.commit(state{Version: stateVersion, Stage: Steady, Signing: id, Doing: true, Settings: set})
}

func (s Settings) encode() (settings, error) {
	if s.Authority == 0 {
		s.Authority = certs.AuthorityLife
	}
	if s.Leaf == 0 {
		s.Leaf = certs.LeafLife
	}
	switch {
	case s.Leaf < time.Hour || s.Leaf > s.Authority/2:
		// It is renewed after two thirds, and what renews it has to outlive it.
		return settings{}, fmt.Errorf("a certificate's life must be at least an hour, and at most half of its authority's: %w", certs.ErrInvalid)
	case s.Authority > maxLife:
		return settings{}, fmt.Errorf("an authority's life can be %s at most: %w", maxLife, certs.ErrInvalid)
	}
	permit := slices.Clone(s.Permit)
	slices.Sort(permit)
	return settings{Authority: int64(s.Authority / time.Second), Leaf: int64(s.Leaf / time.Second), Permit: slices.Compact(permit)}, nil
}

// Settings are those that hold.
func (f *Folder) Settings() Settings {
	s := f.state.Settings
	return Settings{Authority: time.Duration(s.Authority) * time.Second, Leaf: time.Duration(s.Leaf) * time.Second, Permit: slices.Clone(s.Permit)}
}

// Want says what Issue is to issue.
type Want struct {
	// Which of the plan's certificates; nil: all.
	Which func(Leaf) bool
	// Force issues also those that are good as they are.
	Force bool
	// Life, if not 0, is how long certificates live from now on.
	Life time.Duration
}

// Issue issues the plan's certificates that are missing, due, or not what they should be,
// and brings the bundles up to date. When it is killed, some are new, and all are whole.
func (f *Folder) Issue(plan Plan, w Want, now time.Time) (Report, error) {
	r, err := f.resume(plan, now)
	if err != nil {
		return r, err
	}
	if w.Life != 0 {
		set := f.Settings()
		set.Leaf = w.Life
		s := f.state
		if s.Settings, err = set.encode(); err != nil {
			return r, err
		}
		if s.Settings.Leaf != f.state.Settings.Leaf {
			if err := f.commit(s); err != nil {
				return r, err
			}
		}
	}
	if err := f.bundles(plan, &r); err != nil {
		return r, err
	}
	leaves := slices.DeleteFunc(slices.Clone(plan.Leaves), func(l Leaf) bool { return w.Which != nil && !w.Which(l) })
	for i, l := range leaves {
		why, _, err := f.look(l, now)
		if err != nil {
			return r, err
		}
		if why == Good && w.Force {
			why = Wished
		}
		if err := f.issue(l, why, now, &r); err != nil {
			return r, err
		}
		f.tell(i+1, len(leaves))
	}
	return r, nil
}

// Next goes to the next stage of a rotation: from Steady to Trusted, from there to Issued,
// and then, dropping the old generation with its keys, to Steady. If a change had been cut
// off it finishes that one alone (Report.Resumed): what it wrote may have to be deployed
// first. set, if not nil, is for the new generation and what it issues.
func (f *Folder) Next(plan Plan, set *Settings, now time.Time) (Report, error) {
	if r, err := f.resume(plan, now); err != nil || r.Resumed {
		return r, err
	}
	s := f.state
	s.Doing = true
	switch f.state.Stage {
	case Steady:
		if set != nil {
			var err error
			if s.Settings, err = set.encode(); err != nil {
				return Report{}, err
			}
		}
		id, err := f.prepare(plan.Name, s.Settings, now)
		if err != nil {
			return Report{}, err
		}
		s.Stage, s.Beside = Trusted, id
	case Trusted:
		if set != nil {
			return Report{}, fmt.Errorf("the new authorities are made already: %w", ErrStage)
		}
		s.Stage, s.Signing, s.Beside = Issued, s.Beside, s.Signing
	default:
		if set != nil {
			return Report{}, fmt.Errorf("the new authorities are made already: %w", ErrStage)
		}
		for _, l := range plan.Leaves {
			why, _, err := f.look(l, now)
			if err != nil {
				return Report{}, err
			}
			if why == Foreign {
				return Report{}, fmt.Errorf("%s is of the old authority: issue it anew and deploy it first: %w", l.Name, ErrStage)
			}
		}
		s.Stage, s.Beside, s.Dropping = Steady, "", s.Beside
	}
	return f.begin(s, plan, now)
}

// Back goes back by one stage: from Issued to Trusted, issuing again from the old
// generation, and from Trusted to Steady, dropping the new generation with its keys. From
// Steady there is no way back (ErrStage).
func (f *Folder) Back(plan Plan, now time.Time) (Report, error) {
	if r, err := f.resume(plan, now); err != nil || r.Resumed {
		return r, err
	}
	s := f.state
	s.Doing = true
	switch f.state.Stage {
	case Issued:
		s.Stage, s.Signing, s.Beside = Trusted, s.Beside, s.Signing
	case Trusted:
		for _, l := range plan.Leaves {
			why, _, err := f.look(l, now)
			if err != nil {
				return Report{}, err
			}
			if why == Foreign {
				return Report{}, fmt.Errorf("%s is of the new authority: issue it anew and deploy it first: %w", l.Name, ErrStage)
			}
		}
		s.Stage, s.Beside, s.Dropping = Steady, "", s.Beside
	default:
		return Report{}, fmt.Errorf("no rotation is under way: %w", ErrStage)
	}
	return f.begin(s, plan, now)
}

// begin is the moment from which a change is to be finished, by whomever.
func (f *Folder) begin(s state, plan Plan, now time.Time) (Report, error) {
	if err := f.commit(s); err != nil {
		return Report{}, err
	}
	r, err := f.complete(plan, now)
	r.Resumed = false
	return r, err
}

// resume finishes what was cut off, if anything was.
func (f *Folder) resume(plan Plan, now time.Time) (Report, error) {
	if err := f.tidy(plan); err != nil {
		return Report{}, err
	}
	if !f.state.Doing {
		return Report{Stage: f.state.Stage}, nil
	}
	return f.complete(plan, now)
}

// complete makes everything agree with the state. It may be called again and again.
func (f *Folder) complete(plan Plan, now time.Time) (Report, error) {
	r := Report{Stage: f.state.Stage, Resumed: true}
	if err := f.tidy(plan); err != nil {
		return r, err
	}
	if err := f.bundles(plan, &r); err != nil {
		return r, err
	}
	for i, l := range plan.Leaves {
		why, _, err := f.look(l, now)
		if err != nil {
			return r, err
		}
		// What is missing is for Issue, and no part of a change of authorities.
		if why != Foreign {
			why = Good
		}
		if err := f.issue(l, why, now, &r); err != nil {
			return r, err
		}
		f.tell(i+1, len(plan.Leaves))
	}
	s := f.state
	if s.Dropping != "" {
		if err := f.clear(filepath.Join(f.path, authorities, s.Dropping)); err != nil {
			return r, err
		}
		r.Dropped = s.Dropping
	}
	s.Doing, s.Dropping = false, ""
	return r, f.commit(s)
}

func (f *Folder) tell(done, all int) {
	if f.Each != nil {
		f.Each(done, all)
	}
}

// tidy removes what killed runs began to write, or finishes it where that is the only way
// to be whole.
func (f *Folder) tidy(plan Plan) error {
	files := []string{filepath.Join(f.path, stateFile+unfinished)}
	for _, b := range plan.Bundles {
		files = append(files, b.Path+unfinished)
	}
	for _, file := range files {
		if err := f.disk.remove(file); err != nil {
			return err
		}
	}
	for _, l := range plan.Leaves {
		if err := f.settle(l); err != nil {
			return err
		}
	}
	return f.clear(filepath.Join(f.path, authorities, making))
}

func (f *Folder) bundles(plan Plan, r *Report) error {
	for _, b := range plan.Bundles {
		folder, mode := fs.FileMode(0o700), fs.FileMode(0o600)
		if b.Public {
			folder, mode = 0o755, 0o644
		}
		if err := f.disk.folder(filepath.Dir(b.Path), folder); err != nil {
			return err
		}
		changed, err := f.disk.same(b.Path, f.trusted(b.Of).PEM(), mode)
		if err != nil {
			return err
		}
		if changed {
			r.Bundles = append(r.Bundles, b.Path)
		}
	}
	return nil
}
