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
	full   map[ident.Identity]time.Time // when it was found that there is no room
}

// fullFor is how long an identity without room is not looked at again: to count the names of
// one that may have too many takes a look at all names.
const fullFor = time.Minute

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
	most := h.Document().Names.AtMost()
	h.rooms.mu.Lock()
	defer h.rooms.mu.Unlock()
	at, found := h.rooms.full[r.id]
	if now := h.Now(); !found || now.Sub(at) >= fullFor {
		giving := h.rooms.giving[r.id]
		if h.Names(r.id, most-giving)+giving < most {
			if h.rooms.giving == nil {
				h.rooms.giving = make(map[ident.Identity]int)
			}
			h.rooms.giving[r.id]++
			r.entered = true
			return nil
		}
		if h.rooms.full == nil || len(h.rooms.full) >= maxFull {
			h.rooms.full = make(map[ident.Identity]time.Time)
		}
		h.rooms.full[r.id] = now
	}
	return wire.Errorf(wire.BadName, "ask with a name that you have, or have the platform's operator release one", "you have %d names, and cannot have more", most)
}

// maxFull bounds what is remembered of those without room.
const maxFull = 10_000

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
