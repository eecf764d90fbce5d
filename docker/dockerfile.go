package docker

import (
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

var (
	escapeDirective = regexp.MustCompile(`(?i)^#\s*escape\s*=\s*(\S)\s*$`)
	syntaxDirective = regexp.MustCompile(`(?i)^#\s*syntax\s*=\s*(\S+)\s*$`)
	otherDirective  = regexp.MustCompile(`(?i)^#\s*[a-z]+\s*=`)
	heredoc         = regexp.MustCompile(`^\d*<<-?(?:"([^"]+)"|'([^']+)'|([^<"']+))$`) // a word; << in a calculation and <<< are none
	fromFlag        = regexp.MustCompile(`(?:^|[\s,])(?:--)?from=("[^"]*"|[^\s,"]+)`)
	download        = regexp.MustCompile(`://|^[A-Za-z0-9._-]+@[^:/]+:|^github\.com/`) // the last two are how git is told of repositories
	variable        = regexp.MustCompile(`\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(?::([-+])([^}]*))?\})`)
)

// baseImages returns the references of all images that a Dockerfile takes something from, sorted: FROM, COPY --from, RUN
// --mount=from, and the frontend that it asks for. The error matches ErrUnknownInputs where one cannot be told, and where ADD takes
// something from elsewhere.
// Source: https://docs.docker.com/reference/dockerfile/
func baseImages(dockerfile string, args map[string]string) ([]string, error) {
	var images []string
	values := map[string]string{}    // of the arguments that stand before the first FROM
	inStage := map[string]string{}   // of the stage's own arguments
	environment := map[string]bool{} // the variables that hold instead of arguments, in this stage or one that is built on it
	stages := map[string]bool{}
	count := 0
	add := func(image string) error {
		image = expand(strings.Trim(image, `"'`), values)
		if strings.Contains(image, "$") {
			return fmt.Errorf("%w: the Dockerfile builds on %s, whose value is not known", ErrUnknownInputs, image)
		}
		if image == "" || image == "scratch" || image == "context" || stages[strings.ToLower(image)] {
			return nil
		}
		ref, err := name.ParseReference(image)
		if err != nil {
			return fmt.Errorf("%w: the Dockerfile builds on %q, which is no reference", ErrUnknownInputs, image)
		}
		images = append(images, ref.Name())
		return nil
	}
	all := instructions(dockerfile)
	for _, i := range all {
		if i.name != "ENV" {
			continue
		}
		for field := range strings.FieldsSeq(i.rest) {
			name, _, set := strings.Cut(field, "=")
			environment[name] = true
			if !set {
				break // the rest is the value
			}
		}
	}
	for _, i := range all {
		var err error
		switch i.name {
		case "#SYNTAX":
			err = add(i.rest)
		case "ARG":
			for field := range strings.FieldsSeq(i.rest) {
				name, value, set := strings.Cut(field, "=")
				value = strings.Trim(value, `"'`)
				given, ok := args[name]
				switch {
				case count == 0:
					value = expand(value, values)
				case !set: // as it was before the first FROM
					value = values[name]
				default:
					value = expand(value, inStage)
				}
				if ok {
					value = given
				}
				if count == 0 {
					values[name] = value
				} else { // where FROM cannot see it
					inStage[name] = value
				}
			}
		case "FROM":
			fields := slices.DeleteFunc(strings.Fields(i.rest), func(f string) bool { return strings.HasPrefix(f, "--") })
			if len(fields) == 0 {
				return nil, fmt.Errorf("%w: a FROM of the Dockerfile names no image", ErrUnknownInputs)
			}
			err = add(fields[0])
			stages[fmt.Sprint(count)] = true
			count++
			clear(inStage)
			if len(fields) == 3 && strings.EqualFold(fields[1], "AS") {
				stages[strings.ToLower(fields[2])] = true
			}
		case "COPY", "RUN":
			for _, match := range fromFlag.FindAllStringSubmatch(flags(i.rest), -1) {
				if err = add(match[1]); err != nil {
					break
				}
			}
		case "ADD":
			for _, source := range sourcesOf(i.rest) {
				known := true
				for _, match := range variable.FindAllStringSubmatch(source, -1) {
					name := cmp.Or(match[1], match[2])
					_, ok := inStage[name]
					known = known && ok && !environment[name]
				}
				if known {
					source = expand(source, inStage)
				}
				if strings.Contains(source, "$") {
					return nil, fmt.Errorf("%w: the Dockerfile takes %s by ADD, whose value is not known", ErrUnknownInputs, source)
				}
				if download.MatchString(source) {
					return nil, fmt.Errorf("%w: the Dockerfile downloads %s by ADD", ErrUnknownInputs, withoutUserinfo(source))
				}
			}
		}
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(images)
	return slices.Compact(images), nil
}

// sourcesOf are what ADD takes: its words without flags, and without the last one, which is where it puts them.
func sourcesOf(rest string) []string {
	words := strings.Fields(rest)
	for len(words) > 0 && strings.HasPrefix(words[0], "--") {
		words = words[1:]
	}
	var list []string
	if json.Unmarshal([]byte(strings.Join(words, " ")), &list) == nil {
		words = list
	}
	if len(words) > 0 {
		words = words[:len(words)-1]
	}
	for i, word := range words {
		words[i] = strings.Trim(word, `[]"',`)
	}
	return words
}

// flags are the words at the beginning of an instruction that begin with two hyphens.
func flags(rest string) string {
	var all []string
	for field := range strings.FieldsSeq(rest) {
		if !strings.HasPrefix(field, "--") {
			break
		}
		all = append(all, field)
	}
	return strings.Join(all, " ")
}

// expand puts values in the place of variables; one that is not known stays.
func expand(text string, values map[string]string) string {
	return variable.ReplaceAllStringFunc(text, func(found string) string {
		match := variable.FindStringSubmatch(found)
		name := cmp.Or(match[1], match[2])
		value, known := values[name]
		switch {
		case match[3] == "-" && value == "":
			return match[4]
		case match[3] == "+" && value != "":
			return match[4]
		case match[3] == "+":
			return ""
		case known:
			return value
		}
		return found
	})
}

type instruction struct {
	name, rest string
	line       int // the first is 1
}

// instructions splits a Dockerfile, with lines that go on put together and without what stands in here-documents.
func instructions(dockerfile string) []instruction {
	var all []instruction
	escape := `\`
	lines := strings.Split(strings.TrimPrefix(dockerfile, "\ufeff"), "\n")
	for n, line := range lines { // directives come before anything else
		line = strings.TrimSpace(line)
		if match := escapeDirective.FindStringSubmatch(line); match != nil {
			escape = match[1]
		} else if match := syntaxDirective.FindStringSubmatch(line); match != nil {
			all = append(all, instruction{"#SYNTAX", match[1], n + 1})
		} else if !otherDirective.MatchString(line) {
			break
		}
	}
	var going []string
	begun := 0
	for n := 0; n < len(lines); n++ {
		line := strings.TrimSpace(lines[n])
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if len(going) == 0 {
			begun = n + 1
		}
		if rest, ok := strings.CutSuffix(line, escape); ok {
			going = append(going, rest)
			continue
		}
		line = strings.Join(append(going, line), " ")
		going = nil
		name, rest, _ := strings.Cut(strings.ReplaceAll(line, "\t", " "), " ")
		name = strings.ToUpper(name)
		all = append(all, instruction{name, strings.TrimSpace(rest), begun})
		if name != "RUN" && name != "COPY" && name != "ADD" {
			continue
		}
		for word := range strings.FieldsSeq(rest) {
			match := heredoc.FindStringSubmatch(word)
			if match == nil {
				continue
			}
			name := cmp.Or(match[1:]...)
			end := slices.IndexFunc(lines[n+1:], func(line string) bool { return strings.TrimSpace(line) == name })
			if end < 0 {
				break // a builder refuses it, or takes it for none either
			}
			n += 1 + end
		}
	}
	return all
}

var (
	legacyStep = regexp.MustCompile(`^Step (\d+)/\d+ : `)
	otherStep  = regexp.MustCompile(`^(\[[^\]]*\] )?(STEP \d+(/\d+)?: )?`)
)

// lineOf is the line of the Dockerfile with the step that an engine names, 0 where that cannot be told: "Step 3/7 : RUN false" of the
// legacy builder counts instructions; "[build 2/4] RUN false" of BuildKit, with its variables expanded, and "[1/2] STEP 2/4: RUN false" of
// Podman hold one.
func lineOf(dockerfile, step string) int {
	all := slices.DeleteFunc(instructions(dockerfile), func(i instruction) bool { return i.name == "#SYNTAX" })
	if match := legacyStep.FindStringSubmatch(step); match != nil {
		if n, err := strconv.Atoi(match[1]); err == nil && n >= 1 && n <= len(all) {
			return all[n-1].line
		}
		return 0
	}
	step = strings.Join(strings.Fields(otherStep.ReplaceAllString(strings.TrimSuffix(step, "…"), "")), " ")
	line := 0
	for _, i := range all {
		text := strings.Join(strings.Fields(i.name+" "+i.rest), " ")
		known, _, cut := strings.Cut(text, "$")
		if text != step && !(cut && len(known) > len(i.name)+1 && strings.HasPrefix(step, known)) && !(len(step) > stepLimit-10 && strings.HasPrefix(text, step)) {
			continue
		}
		if line > 0 {
			return 0 // it is there twice
		}
		line = i.line
	}
	return line
}
