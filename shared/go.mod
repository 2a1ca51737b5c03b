module github.com/kiosk-shop/kiosk/shared

go 1.26
