package settings

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
)

// Misspelling is a variable of the environment that is nearly the name of a setting.
type Misspelling struct {
	// Name is the variable's.
	Name string
	// Meant is the setting.
	Meant *Setting
}

// String says what is wrong, and how to mend it. It does not tell the value, which may be a secret.
func (m Misspelling) String() string {
	return fmt.Sprintf(
		"%s is set, and is no setting; set %s, or name %s in Service.OwnVariables where it is the service's own",
		m.Name,
		m.Meant.Env,
		m.Name,
	)
}

// Misspelt returns the variables of an environment, each "NAME=value", that are nearly the name of
// a setting, in order. Those that are the service's own are none.
//
// Only the names of settings that Grimoire has defined count, and only what is very near:
// IMAGE_SIZE, TEST_DATABASE_URL or LOG_LEVEL, which begin like settings, belong to services and to
// other tools everywhere, and a warning in each run of theirs would teach people not to read
// warnings.
func Misspelt(environ, own []string) []Misspelling {
	set, targets := values(environ), spelt()
	var all []Misspelling
	for name, value := range set {
		if value == "" || slices.Contains(own, name) {
			continue
		}
		meant := nearest(name, set, targets)
		if meant == nil || meant.Env == dry && !Dry(value) {
			continue
		}
		all = append(all, Misspelling{name, meant})
	}
	slices.SortFunc(all, func(a, b Misspelling) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// dry is the variable that asks for a dry run.
const dry = "DRY_RUN"

// Refusal is the error for a run in whose environment somebody has nearly asked for a dry run: what
// he wants not to happen would. It is none where DRY_RUN itself says what is wanted.
func Refusal(environ, own []string) error {
	if values(environ)[dry] != "" {
		return nil
	}
	for _, m := range Misspelt(environ, own) {
		if m.Meant.Env == dry {
			return fmt.Errorf(
				"%s is set, and is no setting, so this would be no dry run; set %s=1 for one, %[2]s=0 for none, "+
					"or name %[1]s in Service.OwnVariables where it is the service's own",
				m.Name,
				dry,
			)
		}
	}
	return nil
}

// Unknown returns the variables of an environment that begin like settings of Grimoire and are
// none, in order.
func Unknown(environ, own []string) []string {
	var all []string
	for name, value := range values(environ) {
		first, _, ok := strings.Cut(name, "_")
		if !ok || value == "" || Of(name) != nil || slices.Contains(own, name) {
			continue
		}
		if slices.ContainsFunc(Table, func(s Setting) bool { return s.ours() && strings.HasPrefix(s.Env, first+"_") }) {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all
}

// values are the variables of an environment without the blanks around them.
func values(environ []string) map[string]string {
	all := map[string]string{}
	for _, entry := range environ {
		if name, value, ok := strings.Cut(entry, "="); ok {
			all[name] = strings.TrimSpace(value)
		}
	}
	return all
}

// spelling is a setting of Grimoire's own with the letters of its variable.
type spelling struct {
	*Setting
	letters string
	has     uint64 // which letters
}

func spelt() []spelling {
	var all []spelling
	for i := range Table {
		if s := &Table[i]; s.ours() {
			name := letters(s.Env)
			all = append(all, spelling{s, name, setOf(name)})
		}
	}
	return all
}

// nearest returns the setting that a name is nearly that of; nil where it is none's, or is the name
// of one.
func nearest(name string, set map[string]string, targets []spelling) *Setting {
	var best *Setting
	least := 0
	is := letters(name)
	has := setOf(is)
	for _, s := range targets {
		// By another name it may be somebody else's, as long as the setting is there as well.
		if slices.Contains(s.Mistaken, name) && set[s.Env] == "" {
			return s.Setting
		}
		most := tolerance(s.letters)
		// Most are too long or too short, or have other letters, and need no more looking at. One
		// wrong letter makes two others.
		if d := len(is) - len(s.letters); d > most || -d > most || bits.OnesCount64(has^s.has) > 2*most {
			continue
		}
		if apart := distance(is, s.letters); apart <= most && (best == nil || apart < least) {
			best, least = s.Setting, apart
		}
	}
	if best != nil && Of(name) != nil {
		return nil
	}
	return best
}

// letters are what people keep of a name when they write it wrong: DryRun and dry_run are DRY_RUN.
func letters(name string) string { return strings.ToUpper(strings.ReplaceAll(name, "_", "")) }

// setOf is the letters of a name, as bits.
func setOf(letters string) (set uint64) {
	for i := range len(letters) {
		set |= 1 << (letters[i] % 64)
	}
	return set
}

// tolerance is how many letters of a name may be wrong. Two of a short one would make IMAGE_NAME
// one of IMAGE_BASE, and REGISTRY_PORT one of REGISTRY_HOST.
func tolerance(letters string) int {
	if len(letters) >= 13 {
		return 2
	}
	return 1
}

// distance is how many letters have to be put in, left out, made others, or swapped with the next
// one to make b of a.
func distance(a, b string) int {
	// A row has the distances of the first letters of a, and the first j of b; before are those of
	// one letter less, and of two.
	row, before, long := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		row, before, long = long, row, before
		row[0] = i + 1
		for j := range len(b) {
			other := 1
			if a[i] == b[j] {
				other = 0
			}
			row[j+1] = min(before[j+1]+1, row[j]+1, before[j]+other)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], long[j-1]+1)
			}
		}
	}
	return row[len(b)]
}
