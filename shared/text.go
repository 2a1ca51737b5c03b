package kiosk

import (
	"fmt"
	"unicode"
	"unicode/utf8"
)

// CheckText returns what is wrong with one line of text that a person typed:
// least to most characters, none of them a control or an invisible format
// character, which would let two texts look alike or break a mail's header.
func CheckText(field, text string, least, most int) error {
	return checkText(field, text, least, most, func(rune) bool { return false })
}

// CheckProse is [CheckText] for text of several lines.
func CheckProse(field, text string, least, most int) error {
	return checkText(field, text, least, most, func(c rune) bool { return c == '\n' || c == '\r' || c == '\t' })
}

func checkText(field, text string, least, most int, allowed func(rune) bool) error {
	n := utf8.RuneCountInString(text)
	switch {
	case n == 0 && least > 0:
		return Invalid(field, "is required")
	case n < least:
		return Invalid(field, fmt.Sprintf("must have at least %d characters", least))
	case n > most:
		return Invalid(field, fmt.Sprintf("must have at most %d characters", most))
	case !utf8.ValidString(text):
		return Invalid(field, "is not valid UTF-8")
	}
	for _, c := range text {
		// The zero-width joiner and its opposite are part of how Persian,
		// Indic scripts and emoji are written.
		if unicode.In(c, unicode.Cc, unicode.Cf, unicode.Co, unicode.Zl, unicode.Zp) && c != '\u200d' && c != '\u200c' && !allowed(c) {
			return Invalid(field, "must not contain control or invisible characters")
		}
	}
	return nil
}
