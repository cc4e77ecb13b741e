from services.publisher.app import main

main()
