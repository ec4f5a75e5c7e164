package drill

import (
	"context"
	"fmt"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/wire"
)

// regionLoss: a whole region is away, which may be home.
func (d *drill) regionLoss(ctx context.Context) error {
	lost := d.Region
	home := lost == d.home
	d.rep.About = "region " + lost.String() + ", with its servers, issuers and registrars cut off from all others"
	if home {
		d.rep.About += "; it is home"
	}
	d.tell("stop all servers of %s", lost)
	start := d.undo(func(ctx context.Context) error { return d.Machine.StartRegion(ctx, lost) })
	if err := d.Machine.StopRegion(ctx, lost); err != nil {
		return err
	}
	stay := d.others(lost)
	for _, r := range stay {
		d.credentials(ctx, d.people[r], r, true)
	}
	d.credentials(ctx, d.people[lost], stay[0], true) // who was there goes elsewhere
	for _, r := range stay {
		d.names(ctx, r, !home)
	}
	for i, from := range stay {
		d.messages(ctx, from, stay[(i+1)%len(stay)], true)
	}
	here, err := d.victim(stay[0])
	if err != nil {
		return err
	}
	d.revokes(ctx, stay[len(stay)-1], here)
	there, err := d.victim(lost)
	if err != nil {
		return err
	}
	if _, err := d.admin(ctx, stay[0], wire.VerbSuspend, there); err != nil {
		return fmt.Errorf("revoking somebody of %s: %w", lost, err)
	}
	d.tell("start them again")
	if err := start(ctx); err != nil {
		return err
	}
	back := time.Now()
	d.denied(ctx, here, back, d.urls(lost), "in "+lost.String()+", which returned")
	d.denied(ctx, there, back, d.urls(lost), "of its own user, in "+lost.String())
	d.again(ctx, lost, "all as before")
	if home {
		// What was decided stays: a name that it had given is nobody else's.
		d.kept(ctx, stay[0])
	}
	return nil
}

// kept sees that names of before are not given to others, and that new ones are given again.
func (d *drill) kept(ctx context.Context, in ident.Region) {
	f := Finding{What: "names of before", Where: in.String(), Should: "name_taken for others", OK: true}
	owner := d.people[d.home]
	began := time.Now()
	err := d.eventually(ctx, func() error {
		p, err := d.newPerson(ctx, in) // new names are given again
		if err != nil {
			return err
		}
		p.name = owner.name
		if err := d.asks(ctx, p, in); err != nil && reason(err) == "name_taken" {
			return nil
		} else if err != nil {
			return err
		}
		f.OK = false
		return nil
	})
	f.Saw, f.Took = "name_taken", time.Since(began)
	if err != nil {
		f.OK, f.Saw = false, reason(err)
	} else if !f.OK {
		f.Saw = "given to another"
	}
	d.found(f)
}

// parts cuts all links, and gives what heals them.
func (d *drill) parts(ctx context.Context) (heal func(context.Context) error, err error) {
	heal = d.undo(func(ctx context.Context) error {
		for i, a := range d.regions {
			for _, b := range d.regions[i+1:] {
				if err := d.Machine.Heal(ctx, a, b); err != nil {
					return err
				}
			}
		}
		return nil
	})
	for i, a := range d.regions {
		for _, b := range d.regions[i+1:] {
			if err := d.Machine.Cut(ctx, a, b); err != nil {
				return heal, err
			}
		}
	}
	return heal, nil
}

// cut: no region hears of any other.
func (d *drill) cut(ctx context.Context) error {
	d.rep.About = "the links between all regions"
	d.tell("cut all links")
	heal, err := d.parts(ctx)
	if err != nil {
		return err
	}
	for _, r := range d.regions {
		d.credentials(ctx, d.people[r], r, true)
		d.names(ctx, r, r == d.home)
		d.messages(ctx, r, r, true)
	}
	d.messages(ctx, d.regions[0], d.regions[1], false)
	var out []*person
	for _, r := range d.regions {
		v, err := d.victim(r)
		if err != nil {
			return err
		}
		d.revokes(ctx, r, v)
		out = append(out, v)
	}
	d.tell("heal them")
	if err := heal(ctx); err != nil {
		return err
	}
	back := time.Now()
	for i, v := range out {
		d.denied(ctx, v, back, d.urls(d.regions[(i+1)%len(d.regions)]), "of a user of "+v.in.String()+", in "+d.regions[(i+1)%len(d.regions)].String()+", after healing")
	}
	for i, r := range d.regions {
		d.messagesAgain(ctx, r, d.regions[(i+1)%len(d.regions)])
		d.again(ctx, r, "all as before")
	}
	return nil
}

func (d *drill) messagesAgain(ctx context.Context, from, to ident.Region) {
	began := time.Now()
	err := d.eventually(ctx, func() error { return d.hears(ctx, d.people[from], d.people[to]) })
	f := Finding{What: "messages", Where: from.String() + " to " + to.String() + ", after healing", Should: "yes", Saw: yes(err == nil), Took: time.Since(began), OK: err == nil}
	d.found(f)
}

// revokeUnderCut: a region is cut off; each side revokes who is in the other.
func (d *drill) revokeUnderCut(ctx context.Context) error {
	lost := d.Region
	d.rep.About = "the links of " + lost.String() + " to all others"
	d.tell("cut %s off", lost)
	heal := d.undo(func(ctx context.Context) error {
		for _, o := range d.others(lost) {
			if err := d.Machine.Heal(ctx, lost, o); err != nil {
				return err
			}
		}
		return nil
	})
	for _, o := range d.others(lost) {
		if err := d.Machine.Cut(ctx, lost, o); err != nil {
			return err
		}
	}
	rest := d.others(lost)[0]
	var out []*person
	var at [][]string
	for _, c := range []struct{ asked, user ident.Region }{{lost, lost}, {rest, rest}} {
		v, err := d.victim(c.user)
		if err != nil {
			return err
		}
		d.revokes(ctx, c.asked, v)
		out = append(out, v)
		other := lost
		if c.asked == lost {
			other = rest
		}
		at = append(at, d.urls(other))
		// The other side cannot know; that it lets them in is no finding against it.
		f := Finding{What: "revocation", Where: "asked in " + c.asked.String() + ", seen in " + other.String(), Should: "let in: it has not heard of it", OK: true}
		nc, _, err := d.connects(ctx, v, d.urls(other))
		if f.Saw = "let in"; err != nil {
			f.OK, f.Saw = false, reason(err)
		} else {
			nc.Close()
		}
		d.found(f)
	}
	d.tell("heal the links")
	if err := heal(ctx); err != nil {
		return err
	}
	back := time.Now()
	for i, v := range out {
		d.denied(ctx, v, back, at[i], "of a user of "+v.in.String()+", on the other side, after healing")
	}
	d.again(ctx, lost, "all as before")
	return nil
}

// issuerLoss: first one region's issuers are away, then all.
func (d *drill) issuerLoss(ctx context.Context) error {
	lost := d.Region
	d.rep.About = "the issuers of " + lost.String() + ", then those of all regions"
	starts := map[ident.Region]func(context.Context) error{}
	stop := func(r ident.Region) error {
		starts[r] = d.undo(func(ctx context.Context) error { return d.Machine.StartIssuer(ctx, r) })
		return d.Machine.StopIssuer(ctx, r)
	}
	d.tell("stop the issuers of %s", lost)
	if err := stop(lost); err != nil {
		return err
	}
	d.credentials(ctx, d.people[lost], lost, true)
	d.names(ctx, lost, true)
	d.tell("stop all issuers")
	for _, r := range d.others(lost) {
		if err := stop(r); err != nil {
			return err
		}
	}
	for _, r := range d.regions {
		d.credentials(ctx, d.people[r], r, false)
	}
	for i, r := range d.regions {
		d.messages(ctx, r, d.regions[(i+1)%len(d.regions)], true) // who has a credential keeps it
	}
	v, err := d.victim(lost)
	if err != nil {
		return err
	}
	d.revokes(ctx, d.home, v)
	d.tell("start them again")
	for _, r := range d.regions {
		if err := starts[r](ctx); err != nil {
			return err
		}
	}
	for _, r := range d.regions {
		d.again(ctx, r, "all as before")
	}
	return nil
}

// restore: a server comes back with an empty disk.
func (d *drill) restore(ctx context.Context) error {
	d.rep.About = "the disk of one server of " + d.Region.String()
	v, err := d.victim(d.Region)
	if err != nil {
		return err
	}
	d.revokes(ctx, d.Region, v)
	d.tell("stop a server, and start it with an empty disk")
	start := d.undo(func(ctx context.Context) error { return d.Machine.StartRegion(ctx, d.Region) }) // whatever of it does not run
	url, err := d.Machine.LoseDisk(ctx, d.Region)
	if err != nil {
		return err
	}
	if err := start(ctx); err != nil {
		return err
	}
	back := time.Now()
	for _, p := range d.all() {
		f := Finding{What: "accounts", Where: "at that server, of a user of " + p.in.String(), Should: fmt.Sprintf("let in within %s", catchesUp)}
		err := d.eventually(ctx, func() error {
			nc, _, err := d.connects(ctx, p, []string{url})
			if err == nil {
				nc.Close()
			}
			return err
		})
		f.Took = time.Since(back)
		if f.Saw, f.OK = fmt.Sprintf("let in after %s", f.Took.Round(10*time.Millisecond)), err == nil && f.Took <= time.Duration(d.Slower)*catchesUp; err != nil {
			f.Saw = reason(err)
		}
		d.found(f)
	}
	d.denied(ctx, v, back, []string{url}, "at that server")
	d.names(ctx, d.Region, true)
	d.again(ctx, d.Region, "all as before")
	return nil
}
