module github.com/kiosk-shop/kiosk/functions

go 1.26
