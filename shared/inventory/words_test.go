package inventory

import (
	"slices"
	"strings"
	"testing"
)

func TestWords(t *testing.T) {
	for text, want := range map[string]string{
		"":                           "",
		" ?! -- ":                    "",
		"Green tea, green TEA":       "green tea",
		"Crème brûlée":               "brulee creme",
		"Cre\u0300me":                "creme",
		"STRASSE Straße":             "strasse",
		"İstanbul":                   "istanbul",
		"Łódź":                       "łodz",
		"TEA-SENCHA-100g":            "100g sencha tea",
		"50% off, n° 7½":             "2 50 71 n off",
		"ﬁne ＡＢＣ x²":                 "abc fine x2",
		"чай Чай":                    "чаи",
		"茶 お茶":                       "お茶 茶",
		"ガラス":                        "カラス",
		"हिन्दी":                     "हिनदी",
		"می\u200cخواهم":              "میخواهم",
		"don't":                      "don t",
		"a_b.c/d":                    "a b c d",
		"two\nlines\tand\u00a0space": "and lines space two",
		"👩\u200d🚀 rocket":            "rocket",
		strings.Repeat("ä", 150):     strings.Repeat("a", 100),
	} {
		if got := strings.Join(Words(text), " "); got != want {
			t.Errorf("%q has the words %q, want %q", text, got, want)
		}
	}
	// Text of any length has no more words than characters.
	if n := len(Words(strings.Repeat("a b c ", 2000))); n != 3 {
		t.Errorf("got %d words, want 3", n)
	}
	for text, want := range map[string][]string{"tea te t green": {"green", "tea"}, "Tea": {"tea"}, "%": {}, "a b ab": {"ab", "b"}} {
		if got := terms(text); !slices.Equal(got, want) {
			t.Errorf("%q asks for %q, want %q", text, got, want)
		}
	}
}

// FuzzTerms: a product is found by its own name, and by the beginning of any
// word of it, however it is written.
func FuzzTerms(f *testing.F) {
	for _, name := range []string{"Crème brûlée", "ẛ̣ ǅ ŉ", "ﷺ", "Σίσυφος ΣΊΣΥΦΟΣ", "각 한국", "a\u0345b", "ͅ"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if len(name) > 4*MaxQuery {
			return // as no name and no search is
		}
		if !slices.Equal(Words(name), Words(strings.Join(Words(name), " "))) {
			t.Errorf("words of the words of %q: got %q, want %q", name, Words(strings.Join(Words(name), " ")), Words(name))
		}
		words := Words(name)
		for _, term := range terms(name) {
			if !slices.ContainsFunc(words, func(word string) bool { return strings.HasPrefix(word, term) }) {
				t.Errorf("%q: got no word that begins with %q, want one", name, term)
			}
		}
	})
}
