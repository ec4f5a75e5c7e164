package manifest

// Read is Parse without what is checked of the whole.
func Read(data []byte) (*File, Problems) {
	root, problems := tree(data)
	if len(problems) > 0 {
		return nil, problems
	}
	f, w := fill(root)
	return f, w.problems
}

// Bare is the file without where it was read from, to compare it with others.
func Bare(f *File) *File {
	g := *f
	g.source = nil
	return &g
}

// MaxFile is the largest file that is read.
const MaxFile = maxFile

// MaxProblems is how many problems are told.
const MaxProblems = maxProblems

// ConnectSize is what the largest CONNECT with these tags is taken to be.
func ConnectSize(tags []string) int { return connectSize(tags) }

// WrongMapping and WrongLocal are the rules for the targets of mappings and imports.
func WrongMapping(from, to string) string { reason, _ := wrongMapping(from, to); return reason }

// WrongLocal tells what is wrong with an import's subject here.
func WrongLocal(there, here string) string { reason, _ := wrongLocal(there, here); return reason }

// Overlapping is the search for patterns that overlap.
func Overlapping(all []string) []int { return overlapping(all) }
