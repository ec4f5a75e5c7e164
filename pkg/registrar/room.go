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
	looks  map[ident.Identity]look
}

// look is what was found when the names of an identity were counted: how many it had, and how
// many were listed, those that lapsed, too.
type look struct {
	at           time.Time
	held, listed int
}

// lookFor is how long a look is good for: to count the names of one that may have too many
// is to go through all names. What was listed since is held.
const lookFor = time.Minute

// maxNames is how many names there may be for somebody to choose one that nobody ever had:
// every issuer and registrar has all of them in memory.
const maxNames = 2_000_000

// room is that of one claim.
type room struct {
	home    *Home
	id      ident.Identity
	entered bool
}

func (h *Home) room(id ident.Identity) *room { return &room{home: h, id: id} }

// enter refuses one name too many. It may be called again.
func (r *room) enter(fresh bool) error {
	if r.entered {
		return nil
	}
	h := r.home
	if fresh && h.Names.All() >= maxNames {
		e := wire.Errorf(wire.Unavailable, "ask the platform's operator to give you one", "nobody can choose a new name: the platform has %d of them", maxNames)
		e.RetryAfterMS = maxWait.Milliseconds()
		return e
	}
	most := h.Document().Names.AtMost()
	// Nobody waits while all names are gone through.
	h.rooms.mu.Lock()
	looked, found := h.rooms.looks[r.id]
	again := h.Names.Listed(r.id)+h.rooms.giving[r.id] >= most && (!found || h.Now().Sub(looked.at) >= lookFor)
	h.rooms.mu.Unlock()
	if again {
		looked = look{h.Now(), h.Names.Held(r.id), h.Names.Listed(r.id)}
		found = true
	}
	h.rooms.mu.Lock()
	defer h.rooms.mu.Unlock()
	if again {
		h.rooms.remember(r.id, looked)
	}
	giving, has := h.rooms.giving[r.id], h.Names.Listed(r.id)
	if found {
		has += looked.held - looked.listed // without those that lapsed
	}
	switch {
	case has+giving < most:
	case giving > 0:
		// One that is being given may be counted twice for a moment, or come to nothing.
		e := wire.Errorf(wire.Unavailable, "ask again in a moment", "you ask for many names at once")
		e.RetryAfterMS = 500
		return e
	default:
		return wire.Errorf(wire.BadName, "ask with a name that you have, or have the platform's operator release one", "you have %d names, and cannot have more", most)
	}
	if h.rooms.giving == nil {
		h.rooms.giving = make(map[ident.Identity]int)
	}
	h.rooms.giving[r.id]++
	r.entered = true
	return nil
}

// maxLooks bounds what is remembered.
const maxLooks = 10_000

func (r *rooms) remember(id ident.Identity, l look) {
	if r.looks == nil || len(r.looks) >= maxLooks {
		r.looks = make(map[ident.Identity]look)
	}
	r.looks[id] = l
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
