package acceptance_test

import "os"

// jwtSecret is what the shop signs its tokens with, or empty where that is not
// known.
func jwtSecret() string {
	if home != nil {
		return home.JWTSecret
	}
	return os.Getenv("JWT_SECRET")
}
