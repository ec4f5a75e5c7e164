package diskcopy_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/ledger"
)

// fill has a projection know names of open identities.
func fill(b *testing.B, p *ledger.Projection, names int) {
	b.Helper()
	for i := range names {
		name := fmt.Sprintf("user-%d", i)
		k := ledger.KnownName{
			Name: nameOf(b, name), Holder: ident.OpenIdentity(userKey(b, uint64(i))),
			Until: now().Unix() + int64(i), Version: uint64(1 + i%5), At: now().UnixMilli() - int64(i),
		}
		sum := sha256.Sum256([]byte(name))
		copy(k.Sum[:], sum[:])
		p.RestoreName(k)
	}
}

func filled(b *testing.B, names int) *service {
	b.Helper()
	s := &service{home: newHome(b), t: b, path: filepath.Join(b.TempDir(), "c")}
	s.start()
	b.Cleanup(func() { s.stop() })
	fill(b, s.p, names)
	s.flush(1)
	return s
}

// cpu is the processors' time that this process used, which others that are at work do
// not stretch.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func BenchmarkLoad(b *testing.B) {
	for _, n := range []int{10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := filled(b, n)
			info := must[os.FileInfo](b)(os.Stat(s.path))
			before := cpu(b)
			for b.Loop() {
				s.restart()
				if s.loaded.Names != n {
					b.Fatalf("%+v", s.loaded)
				}
			}
			b.ReportMetric((cpu(b)-before).Seconds()/float64(b.N), "cpu-s/op")
			b.ReportMetric(float64(info.Size())/float64(n), "disk-B/name")
			b.ReportMetric(b.Elapsed().Seconds()*1e9/float64(b.N)/float64(n), "ns/name")
		})
	}
}

// BenchmarkLoadOthers: of entries that are not names the signatures are verified again.
func BenchmarkLoadOthers(b *testing.B) {
	s := filled(b, 0)
	const n = 10_000
	for i := range n {
		s.apply(s.suspension(b, 4*i+3, 1))
	}
	s.flush(2)
	for b.Loop() {
		s.restart()
		if s.loaded.Others != n {
			b.Fatalf("%+v", s.loaded)
		}
	}
}

// BenchmarkFlush is one change where much is known.
func BenchmarkFlush(b *testing.B) {
	for _, n := range []int{1_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := filled(b, n)
			e := s.name(b, "alice", 1, 3)
			before := must[os.FileInfo](b)(os.Stat(s.path)).Size()
			flushes := int64(0)
			for b.Loop() {
				s.copy.Note(e)
				s.apply(e)
				s.flush(2)
				flushes++
			}
			if grown := must[os.FileInfo](b)(os.Stat(s.path)).Size() - before; grown > 0 && n > 100_000 {
				b.ReportMetric(float64(grown)/float64(flushes), "B/op")
			}
		})
	}
}

// BenchmarkRewrite is what a compaction costs.
func BenchmarkRewrite(b *testing.B) {
	s := filled(b, 1_000_000)
	for b.Loop() {
		// What does not begin as a frame does is damage, hence a reason.
		f := must[*os.File](b)(os.OpenFile(s.path, os.O_WRONLY|os.O_APPEND, 0))
		if _, err := f.Write([]byte{0xff, 0xff, 0xff, 0xff}); err != nil {
			b.Fatal(err)
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		s.restart()
		b.StartTimer()
		s.flush(1)
	}
}
