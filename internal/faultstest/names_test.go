package faultstest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/herald-nats/herald/internal/service"
	"github.com/herald-nats/herald/internal/wait"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/wire"
)

// request is one request for a name, and what was answered.
type request struct {
	name  int
	asker int
}

type outcome int

const (
	given   outcome = iota // the name is the asker's
	taken                  // the name is somebody else's
	unknown                // no answer, or one that says nothing: it may have been decided or not, or may be yet
)

// claims is what names are, for the history to be checked against: a register for
// each name that the first claim sets for good. Who is told "taken" learns that it is
// set, and not to whom.
func claims() porcupine.Model {
	return porcupine.Model{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			byName := map[int][]porcupine.Operation{}
			for _, op := range history {
				n := op.Input.(request).name
				byName[n] = append(byName[n], op)
			}
			parts := make([][]porcupine.Operation, 0, len(byName))
			for _, ops := range byName {
				parts = append(parts, ops)
			}
			return parts
		},
		Init: func() any { return -1 },
		Step: func(state, input, output any) (bool, any) {
			owner, asker := state.(int), input.(request).asker
			switch output.(outcome) {
			case given:
				return owner == -1 || owner == asker, asker
			case taken:
				return owner != -1 && owner != asker, owner
			default: // it may have had an effect; that it had none is the same as at the very end
				if owner == -1 {
					return true, asker
				}
				return true, owner
			}
		},
		Equal: func(a, b any) bool { return a.(int) == b.(int) },
		DescribeOperation: func(input, output any) string {
			r := input.(request)
			return fmt.Sprintf("%d claims %d: %s", r.asker, r.name, [...]string{"given", "taken", "unknown"}[output.(outcome)])
		},
	}
}

// The model itself refuses what it has to: without this a history that passes says
// nothing.
func TestModelOfClaims(t *testing.T) {
	op := func(asker int, from, to int64, o outcome) porcupine.Operation {
		return porcupine.Operation{ClientId: asker, Input: request{0, asker}, Call: from, Return: to, Output: o}
	}
	for what, c := range map[string]struct {
		history []porcupine.Operation
		fits    bool
	}{
		"one after the other":              {[]porcupine.Operation{op(1, 0, 1, given), op(2, 2, 3, taken), op(1, 4, 5, given)}, true},
		"two owners":                       {[]porcupine.Operation{op(1, 0, 1, given), op(2, 2, 3, given)}, false},
		"two owners at one moment":         {[]porcupine.Operation{op(1, 0, 9, given), op(2, 0, 9, given)}, false},
		"taken by nobody":                  {[]porcupine.Operation{op(2, 0, 1, taken), op(1, 2, 3, given)}, false},
		"taken by who asks":                {[]porcupine.Operation{op(1, 0, 1, given), op(1, 2, 3, taken)}, false},
		"taken by who got no answer":       {[]porcupine.Operation{op(1, 0, 99, unknown), op(2, 2, 3, taken)}, true},
		"no answer, and another has it":    {[]porcupine.Operation{op(1, 0, 99, unknown), op(2, 2, 3, given)}, true},
		"no answer, and it came to be so":  {[]porcupine.Operation{op(1, 0, 99, unknown), op(2, 2, 3, taken), op(1, 4, 5, given)}, true},
		"taken, and then given to another": {[]porcupine.Operation{op(1, 0, 99, unknown), op(2, 2, 3, taken), op(2, 4, 5, given)}, false},
	} {
		if got := porcupine.CheckOperations(claims(), c.history); got != c.fits {
			t.Errorf("%s: it fits: %t", what, got)
		}
	}
}

// history is every request and its answer.
type history struct {
	mu    sync.Mutex
	ops   []porcupine.Operation
	count [3]int
	start time.Time
}

func (h *history) add(r request, call time.Duration, o outcome) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ret := time.Since(h.start)
	if o == unknown {
		ret = 1 << 60 // it may be decided at any later time
	}
	h.count[o]++
	h.ops = append(h.ops, porcupine.Operation{ClientId: r.asker, Input: r, Call: int64(call), Output: o, Return: int64(ret)})
}

// Names under faults: people in three regions ask for the same names at the same
// moment, while links are cut and healed, the server that leads home's bucket is
// killed and comes back, and registrars and issuers are killed. Every request and
// answer is recorded: nobody is ever given what another was.
func TestNamesUnderFaults(t *testing.T) {
	names := 240
	if long() {
		names = 1000
	}
	w := newWorld(t, false)
	services := newProcesses(w)
	h := &history{start: time.Now()}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()

	faults := make(chan string, 1)
	go func() { faults <- w.disturb(ctx, services, rand.New(rand.NewPCG(1, 2))) }() // #nosec G404 -- which fault comes when

	// Three people for each name, one in each region, at one moment; each asks until
	// it knows, up to a bound, and then once more.
	var wg sync.WaitGroup
	slots := make(chan struct{}, 4)
	for name := range names {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			var at sync.WaitGroup
			for i, r := range regions() {
				at.Go(func() { w.claimUntilKnown(h, r, request{name: name, asker: 3*name + i}) })
			}
			at.Wait()
		})
	}
	wg.Wait()
	cancel()
	t.Logf("faults: %s", <-faults)
	t.Logf("%d requests: %d given, %d taken, %d without an answer", len(h.ops), h.count[given], h.count[taken], h.count[unknown])
	if h.count[given] < names || h.count[taken] < names || h.count[unknown] == 0 {
		t.Error("too little happened for the history to say something")
	}
	switch result, info := porcupine.CheckOperationsVerbose(claims(), h.ops, 2*time.Minute); result {
	case porcupine.Ok:
	default:
		if f, err := porcupineFile(); err == nil {
			_ = porcupine.Visualize(claims(), info, f)
			t.Logf("the history is in %s", f.Name())
		}
		t.Fatalf("the history is not linearizable: %s", result)
	}
	// And the ledger says the same to everybody.
	for _, name := range all() {
		services.kill(name)
		w.start(name)
	}
	w.equal(within(10 * time.Second))
}

// claimUntilKnown asks for a name until there is an answer that says something.
func (w *world) claimUntilKnown(h *history, in string, r request) {
	key := newUser(w.t)
	name := must(ident.ParseName(fmt.Sprintf("contested-%d", r.name)))
	for try, known := 0, 0; try < 40 && known < 2; try++ {
		call := time.Since(h.start)
		o := w.claim(in, key, name)
		h.add(r, call, o)
		if o != unknown {
			known++
			continue
		}
		if wait.For(w.t.Context(), 100*time.Millisecond) != nil {
			return
		}
	}
}

func (w *world) claim(in string, key *keystore.Key, name ident.Name) outcome {
	ctx, cancel := context.WithTimeout(w.t.Context(), 900*time.Millisecond) // faults have to show
	defer cancel()
	r, _ := w.Public.Document.Region(region(in))
	_, err := w.Public.Obtain(ctx, r.URLs, key, client.Wish{Name: name})
	var werr *wire.Error
	switch {
	case err == nil:
		return given
	case errors.As(err, &werr) && werr.Code == wire.NameTaken:
		return taken
	default:
		return unknown
	}
}

// disturb does one harm after the other until ctx ends, and undoes the last one.
func (w *world) disturb(ctx context.Context, services *processes, random *rand.Rand) string {
	var done [4]int
	for ctx.Err() == nil {
		pause := func() { _ = wait.For(ctx, time.Duration(150+random.IntN(500))*time.Millisecond) }
		pause()
		kind := random.IntN(len(done))
		done[kind]++
		switch kind {
		case 0: // a region is cut off, home too
			r := regions()[random.IntN(3)]
			w.cut(r)
			pause()
			w.heal(r)
		case 1: // the server that leads home's bucket is killed
			node := w.leader("KV_decisions")
			if node == "" {
				continue
			}
			bound, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			if err := w.Up.Cluster.StopNode(bound, node); err != nil {
				w.t.Errorf("stopping %s: %v", node, err)
			}
			pause()
			if err := w.Up.Cluster.StartNode(bound, node); err != nil {
				w.t.Errorf("starting %s: %v", node, err)
			}
			cancel()
		case 2: // home's registrar
			services.kill(service.Registrar + "/ams")
			pause()
			services.start(service.Registrar + "/ams")
		case 3: // an issuer
			name := service.Issuer + "/" + regions()[random.IntN(3)]
			services.kill(name)
			pause()
			services.start(name)
		}
	}
	return fmt.Sprintf("%d regions cut off, %d leaders of the bucket killed, %d registrars and %d issuers killed", done[0], done[1], done[2], done[3])
}
