package inventory

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/language"
	"golang.org/x/text/unicode/norm"
)

// MaxQuery is the longest text that can be searched for, in characters. So no
// more than that of a word is ever asked for.
const MaxQuery = 100

// Words takes texts apart into what a search compares: runs of letters and
// digits, in the form that their case and accents have been taken from
// (Unicode's NFKD without nonspacing marks, in the small letters of its capital
// ones, so that ß is ss), each once, sorted, and cut to MaxQuery characters.
func Words(texts ...string) []string {
	words := []string{}
	upper := cases.Upper(language.Und)
	for _, text := range texts {
		plain := strings.Map(func(r rune) rune {
			// A zero-width joiner or its opposite is a matter of how a word is
			// written.
			if unicode.Is(unicode.Mn, r) || r == '\u200d' || r == '\u200c' {
				return -1
			}
			return r
		}, norm.NFKD.String(strings.ToValidUTF8(text, " ")))
		words = append(words, strings.FieldsFunc(strings.ToLower(upper.String(plain)), func(r rune) bool {
			return !unicode.IsLetter(r) && !unicode.IsNumber(r) && !unicode.IsMark(r)
		})...)
	}
	for i, word := range words {
		if utf8.RuneCountInString(word) > MaxQuery {
			words[i] = string([]rune(word)[:MaxQuery])
		}
	}
	slices.Sort(words)
	return slices.Compact(words)
}

// Words returns what a search finds the product by.
func (p Product) Words() []string { return Words(p.Name, p.Description, p.Category, p.SKU) }

// terms returns what a search for text asks of a product's words: that each term
// begins one of them. A term that another begins with asks for nothing more.
func terms(text string) []string {
	words := Words(text)
	return slices.DeleteFunc(slices.Clone(words), func(term string) bool {
		return slices.ContainsFunc(words, func(other string) bool { return other != term && strings.HasPrefix(other, term) })
	})
}
