package registrar

import (
	"sync"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/wire"
)

// rooms keep how many names each identity chooses to what it may. Those that this registrar
// is giving at the moment count; what another of home gives at the same moment does not, so
// that somebody who asks them all at once may have as many more as there are others.
type rooms struct {
	mu     sync.Mutex
	giving map[ident.Identity]int
	full   map[ident.Identity]fullness
}

// fullness is when it was found that there is no room, and how many names were listed then.
type fullness struct {
	at     time.Time
	listed int
}

// fullFor is how long an identity without room is not looked at again, unless one of its
// names goes: to count the names of one that may have too many takes a look at all names.
const fullFor = time.Minute

// maxNames is how many names there may be for somebody to choose another: every issuer and
// registrar has all of them in memory.
const maxNames = 2_000_000

// room is that of one claim.
type room struct {
	home    *Home
	id      ident.Identity
	entered bool
}

func (h *Home) room(id ident.Identity) *room { return &room{home: h, id: id} }

// enter refuses one name too many. It may be called again.
func (r *room) enter() error {
	if r.entered {
		return nil
	}
	h := r.home
	if h.Names.All() >= maxNames {
		e := wire.Errorf(wire.Unavailable, "ask the platform's operator to give you one", "nobody can choose another name: the platform has %d of them", maxNames)
		e.RetryAfterMS = maxWait.Milliseconds()
		return e
	}
	most := h.Document().Names.AtMost()
	h.rooms.mu.Lock()
	defer h.rooms.mu.Unlock()
	giving, listed, now := h.rooms.giving[r.id], h.Names.Listed(r.id), h.Now()
	if listed+giving >= most {
		known, found := h.rooms.full[r.id]
		found = found && now.Sub(known.at) < fullFor && listed >= known.listed
		if found || h.Names.Held(r.id)+giving >= most {
			if !found {
				h.rooms.remember(r.id, fullness{now, listed})
			}
			return wire.Errorf(wire.BadName, "ask with a name that you have, or have the platform's operator release one", "you have %d names, and cannot have more", most)
		}
	}
	if h.rooms.giving == nil {
		h.rooms.giving = make(map[ident.Identity]int)
	}
	h.rooms.giving[r.id]++
	r.entered = true
	return nil
}

// maxFull bounds what is remembered of those without room.
const maxFull = 10_000

func (r *rooms) remember(id ident.Identity, f fullness) {
	if r.full == nil || len(r.full) >= maxFull {
		r.full = make(map[ident.Identity]fullness)
	}
	r.full[id] = f
}

// leave ends a claim, whatever became of it.
func (r *room) leave() {
	if !r.entered {
		return
	}
	r.home.rooms.mu.Lock()
	defer r.home.rooms.mu.Unlock()
	if r.home.rooms.giving[r.id]--; r.home.rooms.giving[r.id] == 0 {
		delete(r.home.rooms.giving, r.id)
	}
}
