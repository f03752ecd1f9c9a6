// Containers in far memory. Under `rum local --budget 4M -- ./hello` most of their data are on the slaves.
#include <iostream>
#include <string>
#include <unordered_map>
#include <vector>

#include <rum.hpp>

int main() {
    rum_init(nullptr); // The grid of RUM_MACHINES; a path names another.

    std::vector<unsigned long, rum::allocator<unsigned long>> squares;
    for (unsigned long i = 0; i < 2'000'000; i++)
        squares.push_back(i * i);

    std::pmr::unordered_map<std::pmr::string, unsigned long> by_name(rum::get_resource());
    for (unsigned long i = 0; i < 50'000; i++)
        by_name["the square of " + std::pmr::string(std::to_string(i))] = squares[i];

    std::cout << "hello from far memory: " << by_name["the square of 1234"] << '\n';
}
